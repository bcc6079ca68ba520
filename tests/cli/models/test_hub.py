"""Models from a hub: one of ours on this machine, which speaks what the library asks for."""

import resource
from pathlib import Path

import pytest

from tests.cli.models.hub_server import GGUF, Hub, blob_id, pull, sibling


@pytest.mark.parametrize("name", ["org/name", "org/name:one.Q4_0.gguf"])
def test_a_model_of_the_hub_is_kept(hub: Hub, name: str, tmp_path: Path) -> None:
    """Its one GGUF file, named or not; the second time it is there."""
    ended = pull(name, hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    (path,) = (tmp_path / "models").glob("*/*.gguf")
    assert path.read_bytes() == GGUF
    assert [each.name for each in path.parent.iterdir()] == ["one.Q4_0.gguf"]
    assert pull(name, "http://127.0.0.1:9", tmp_path).returncode == 0


def test_a_checkpoint_of_the_hub_is_kept(hub: Hub, tmp_path: Path) -> None:
    """Weights by their SHA-256, small files by git's id; an empty one asks for nothing."""
    hub.files |= {"model.safetensors": b"weights", "tokenizer_config.json": b""}
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    files = {path.name: path.read_bytes() for path in (tmp_path / "models/org--name").iterdir()}
    assert files == {name: hub.files[name] for name in files}
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer_config.json"]


def test_a_file_of_a_folder_lies_at_the_top(hub: Hub, tmp_path: Path) -> None:
    """Where the services look, under a name that says where it came from."""
    hub.siblings = [sibling("Q8 0/two.gguf", GGUF)]
    hub.files = {"Q8%200/two.gguf": GGUF}
    ended = pull("org/name:Q8 0/two.gguf", hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "models/org--name@Q8%200%2Ftwo.gguf/two.gguf").read_bytes() == GGUF


def without_hash(name: str, data: bytes) -> dict[str, object]:
    return {"rfilename": name, "size": len(data)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (sibling("one.gguf", GGUF[:-1] + b"?"), "one.gguf is not the file that the hub names"),
        ({**sibling("one.gguf", GGUF), "lfs": None, "blobId": blob_id(b"")}, "is not the file"),
        (sibling("one.gguf", GGUF + b"?"), "does not send all 500005 bytes of one.gguf"),
        (without_hash("one.gguf", GGUF), "says no hash of org/name:one.gguf"),
        (sibling("../one.gguf", GGUF), "neither GGUF files"),
        (sibling("/one.gguf", GGUF), "neither GGUF files"),
    ],
)
def test_a_file_that_is_not_what_was_named_gets_no_name(
    hub: Hub, entry: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Of the same size with another hash, shorter, without a hash, or outside the folder."""
    hub.files = {"one.gguf": GGUF}
    hub.siblings = [entry]
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr.splitlines()[-1]
    assert [*(tmp_path / "models").glob("[!.]*")] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/other", "the hub has no org/other"),
        ("org/name:two.gguf", "org/name has no file two.gguf"),
        ("a/b/c", "'a/b/c' is no model's name"),
        ("../x", "'../x' is no model's name"),
        ("org--x/name", "'org--x/name' is no model's name"),
        ("nothing", "'nothing' is neither ORG/NAME of the hub nor of the catalogue"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(
    hub: Hub, name: str, message: str, tmp_path: Path
) -> None:
    """Exit 1, and nothing under the model's name."""
    ended = pull(name, hub.url, tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
    assert [*(tmp_path / "models").glob("[!.]*")] == []


REFUSALS = [
    (401, {"X-Error-Code": "GatedRepo"}, "keeps org/name behind terms: accept them there"),
    (403, {}, "set HF_TOKEN"),
    (401, {}, "has no org/name, or keeps it behind a token: set HF_TOKEN"),
    (404, {"X-Error-Code": "RevisionNotFound"}, "no longer has this revision of org/name"),
    (404, {"X-Error-Code": "EntryNotFound"}, "has no such file: org/name"),
    (404, {}, "the hub has no org/name"),
    (429, {}, "too many requests"),
    (500, {}, "answered 500 for org/name"),
]


@pytest.mark.parametrize(("status", "headers", "message"), REFUSALS)
@pytest.mark.parametrize("of_file", [False, True])
def test_what_the_hub_refuses_is_said_by_its_kind(
    hub: Hub, of_file: bool, status: int, headers: dict[str, str], message: str, tmp_path: Path
) -> None:
    """In a line that says what would help, of the repository and of its files alike."""
    if of_file:
        hub.file_status = (status, headers)
    else:
        hub.api = (status, headers, b"")
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"id": 1, "siblings": [{}]}'])
def test_what_is_no_hub_is_told_so(hub: Hub, body: bytes, tmp_path: Path) -> None:
    """Another server, or a proxy's page."""
    hub.api = (200, {}, body)
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "does not answer as a hub does" in ended.stderr


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:9", "refused"), ("nowhere", "protocol")],
)
def test_a_hub_that_is_not_there_is_said_in_a_line(url: str, reason: str, tmp_path: Path) -> None:
    """Exit 1, with the address."""
    ended = pull("org/name", url, tmp_path)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert f"the hub at {url} cannot be reached" in line and reason in line


def test_a_setting_that_the_library_does_not_take_is_said_in_a_line(tmp_path: Path) -> None:
    """It reads them when it is imported."""
    ended = pull("org/name", "http://[", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "infermesh pull: the hub's library cannot be loaded: Invalid IPv6 URL\n"


def test_a_proxy_that_is_none_is_said_in_a_line(hub: Hub, tmp_path: Path) -> None:
    """One that does not answer, and one that cannot be."""
    for url, reason in (("http://127.0.0.1:9", "refused"), ("garbage://x", "the hub cannot be")):
        ended = pull("org/name", hub.url, tmp_path, HTTP_PROXY=url, http_proxy=url)
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert reason in ended.stderr.splitlines()[-1]


def test_a_disk_that_is_full_is_not_the_hubs_fault(hub: Hub, tmp_path: Path) -> None:
    """Its folder is named; here no file may have more than a part of the model's bytes."""
    ended = pull(
        "org/name",
        hub.url,
        tmp_path,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert line == f"infermesh pull: {tmp_path / 'models'}: File too large"


def test_the_network_may_be_forbidden(hub: Hub, tmp_path: Path) -> None:
    """By the library's setting."""
    ended = pull("org/name", hub.url, tmp_path, HF_HUB_OFFLINE="1")
    assert (ended.returncode, hub.requests) == (1, [])
    assert "HF_HUB_OFFLINE is set" in ended.stderr.splitlines()[-1]


def test_a_token_is_sent(hub: Hub, tmp_path: Path) -> None:
    """With the request of the file as well; one that no header can hold is said in a line."""
    hub.token = "hf_abc"
    assert pull("org/name", hub.url, tmp_path).returncode == 1
    ended = pull("org/name", hub.url, tmp_path, HF_TOKEN="hf_abc")
    assert ended.returncode == 0, ended.stderr
    ended = pull("org/name:one.Q4_0.gguf", hub.url, tmp_path, HF_TOKEN="hf_é")
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
