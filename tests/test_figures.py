"""The figures that tests record are printed at the end of a run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
def test_measures(record_property):
    record_property("figures", "97 cases, 3 refused")

def test_fails(record_property):
    record_property("figures", "not these")
    assert False

def test_says_nothing(): pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_passing_tests_figures_are_printed(tmp_path: Path, workers: str) -> None:
    """Below its name, with xdist's workers as without; a failing test's are its own matter."""
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.figures", "-n", workers]
    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "test_some.py::test_measures\n97 cases, 3 refused\n" in run.stdout
    assert "not these" not in run.stdout.partition("= figures =")[2]
