"""The table of suites counts each test once, and all of its seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite_table import suite_of

ROOT = Path(__file__).parents[1]
OUTCOMES = """
import pytest

@pytest.fixture
def broken():
    yield
    raise OSError

def test_passes(): pass
def test_fails(): assert False
def test_skips(): pytest.skip("why")
def test_fails_at_the_end(broken): pass
"""


@pytest.mark.parametrize(
    ("nodeid", "suite"),
    [
        ("tests/cache/test_keys.py::test_x", "cache"),
        ("tests/generator/engine/kv/test_events.py::test_x", "generator/engine"),
        ("tests/generator/backend/cpu/linear/test_y.py::TestX::test[a/b]", "generator/backend/cpu"),
        ("tests/generator/backend/test_batch.py::test_x", "generator/backend"),
        ("tests/test_tracer.py::test_x", "."),
    ],
)
def test_a_suite_is_the_first_folders(nodeid: str, suite: str) -> None:
    """Two of them, three under the backends."""
    assert suite_of(nodeid) == suite


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_table_counts_every_outcome(tmp_path: Path, workers: str) -> None:
    """Once per test, its worst one, with xdist's workers as without."""
    folder = tmp_path / "tests" / "some"
    folder.mkdir(parents=True)
    (folder / "test_outcomes.py").write_text(OUTCOMES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.suite_table", "-n", workers]
    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", "/dev/null", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    rows = [line.split()[:-1] for line in run.stdout.splitlines() if line.startswith("some ")]
    assert rows == [["some", "4", "1", "1", "2"]], run.stdout
