"""What the documents name is there: files, folders, modules and the targets of make."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("bench", "cli", "mesh", "services", "tests", "training")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "services/*/README.md")
    for path in ROOT.glob(pattern)
)
# Files that the documents name and the repository does not hold.
ELSEWHERE = {
    "config.json": "part of a checkpoint",
    "grounding.json": "in a model's folder",
    "generation_config.json": "part of a checkpoint",
    "FILE.csv": "a reader's file",
    "azure_2023_conv.csv": "a public trace, fetched by hand",
    "gpu-partial.json": "written by a bench that was interrupted",
    "bench/results/gpu.json": "written by `bench.gpu` where there is a GPU",
    ".infermesh/dev-key": "written by `infermesh up`",
    "notes/": "a reader's folder",
    "handbook.pdf": "a reader's file",
}
SUFFIXES = "conf|cpp|csv|h|json|md|pdf|proto|py|sh|svg|toml|txt|yaml"
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
LINK = re.compile(r"\]\(([^)#:\s]+)\)")
FILE = re.compile(rf"(?:[\w.*-]+/)*[\w.*-]+\.(?:{SUFFIXES})")
FOLDER = re.compile(r"(?:[\w.*-]+/)+")
IN_A_TREE = re.compile(rf"(?:{'|'.join(TREES)})(?:/[\w.*-]+)+")
MODULE = re.compile(rf"(?:{'|'.join(TREES)})(?:\.\w+)+")
MAKE = re.compile(r"\bmake((?: +[a-z][a-z-]*)+)")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.M)
# a part in capitals stands for any name: services/NAME/config.py
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b(?=/)")


def text_of(document: Path) -> str:
    """Return a document's text; of the changelog only what is not released."""
    text = document.read_text()
    return text.split("\n## ")[1] if document.name == "CHANGELOG.md" else text


def words(document: Path) -> Iterator[str]:
    """Yield the words of a document's code, without the punctuation around them."""
    for code in CODE.findall(text_of(document)):
        for word in code.strip("`").split():
            yield word.strip("\"'()[],;:=")


def is_path(word: str) -> bool:
    """Return whether a word of code names a file or a folder of the repository."""
    shapes = (FILE, FOLDER, IN_A_TREE)
    return any(shape.fullmatch(word) for shape in shapes) and word not in ELSEWHERE


def exists(path: str, document: Path) -> bool:
    """Return whether a path leads somewhere from the root, or ends a path below `document`.

    A service's README speaks of its own folder, any other document of the whole repository.
    """
    pattern = PLACEHOLDER.sub("*", path).rstrip("/")
    if next(ROOT.glob(pattern), None) is not None:
        return True
    is_of_a_service = document.parent.parent == ROOT / "services"
    inside = [document.parent] if is_of_a_service else [ROOT / tree for tree in TREES]
    return any(next(folder.rglob(pattern), None) is not None for folder in inside)


def is_module(name: str) -> bool:
    """Return whether a dotted name is a module, or something that a module defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_dir() or file.exists():
            rest = parts[length:]
            return not rest or (file.exists() and rest[0] in names_in(file))
    return False


def names_in(file: Path) -> set[str]:
    """Return what a module defines or imports at its top."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.Assign() | ast.AnnAssign():
                names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    """Files and folders in backticks and code blocks."""
    paths = filter(is_path, words(document))
    assert sorted({path for path in paths if not exists(path, document)}) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Links to other files of the repository, from the document's folder."""
    links = LINK.findall(text_of(document))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    """Dotted names such as `bench.gpu`, and what a module defines, such as `mesh.bus.connect`."""
    modules = (word for word in words(document) if MODULE.fullmatch(word) and not is_path(word))
    assert sorted({name for name in modules if not is_module(name)}) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_target_that_a_document_names_is_in_the_makefile(document: Path) -> None:
    """Each word after `make` in code."""
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named_targets = {
        target
        for code in CODE.findall(text_of(document))
        for words_after in MAKE.findall(code)
        for target in words_after.split()
    }
    assert sorted(named_targets - targets) == []
