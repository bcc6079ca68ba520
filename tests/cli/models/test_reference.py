"""Names of models, and the folders that they have."""

import re
import string

import pytest
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from cli.models.catalogue import catalogue
from cli.models.reference import BadNameError, Reference, folder_of, name_of

PART = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9_])?", fullmatch=True)
NAMES = st.builds(
    "{}/{}{}".format,
    *(PART, PART),
    st.one_of(st.just(""), st.text(min_size=1, max_size=12).map(":{}.gguf".format)),
)
ODD = st.text(alphabet=string.ascii_letters + "0./:@%-_~ \\\n*é", max_size=12)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("a/b", "a--b"),
        ("_a/b", "_a--b"),
        ("org/name:a.gguf", "org--name@a.gguf"),
        ("a/b:c d/e.Q4_K_M.gguf", "a--b@c%20d%2Fe.Q4_K_M.gguf"),
        ("a/b:c:d@100%.gguf", "a--b@c%3Ad%40100%25.gguf"),
        ("a/b:é.gguf", "a--b@%C3%A9.gguf"),
    ],
)
def test_references_have_a_folder_each(text: str, folder: str) -> None:
    """An organisation and a name, and a file of it; the folder's name tells them again."""
    assert str(Reference.parse(text)) == text
    assert (folder_of(text), name_of(folder)) == (folder, text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "a/", "/b", "../x", "a/..", "a/b/c", "a b/c", "a/b:", "a/b:c.bin", "a--b/c"),
        *("a/b--c", "-a/b", "a/b-", "a/.b", "a..b/c", "a/b.git", "é/b", f"a/{'b' * 95}", "a/b\n"),
        *("a/b:../c.gguf", "a/b:/c.gguf", "a/b:c//d.gguf", "a/b:.gguf", "a/b:c\n.gguf", "a:c.gguf"),
        f"a/b:{'é' * 100}.gguf",
    ],
)
def test_a_name_that_no_model_can_have_is_named(text: str) -> None:
    """By a sentence, wherever it is asked for."""
    for ask in (Reference.parse, folder_of):
        with pytest.raises(BadNameError, match=re.escape(repr(text))):
            ask(text)


@given(st.one_of(NAMES, ODD))
@example("a/b:x@y.gguf")
def test_a_name_is_refused_or_comes_back_from_its_folder(text: str) -> None:
    """A folder is one part of a path, and not hidden; the hub's library takes what we take."""
    try:
        folder = folder_of(text)
    except BadNameError:
        return
    assert name_of(folder) == text
    assert "/" not in folder and not folder.startswith(".") and len(folder.encode()) < 250
    if "/" in text:
        validate_repo_id(Reference.parse(text).repo)


@given(ODD)
@example("a--b--c.gguf")
@example("a--b@%2e.gguf")
def test_a_folder_that_no_name_has_is_nobodys(folder: str) -> None:
    """Two folders never have one name."""
    name = name_of(folder)
    assert name is None or folder_of(name) == folder


def test_the_catalogues_names_are_their_folders() -> None:
    """What was pulled by them lies where it lay."""
    assert [folder_of(name) for name in catalogue()] == [*catalogue()]
