"""The examples run as they stand against a running stack, and stay short."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.stack import ROOT, Stack

pytestmark = pytest.mark.e2e

EXAMPLES = sorted((ROOT / "examples").glob("*_direct.py"))


def test_each_direct_service_has_an_example() -> None:
    """Every service that others may call has one."""
    names = {path.stem.removesuffix("_direct") for path in EXAMPLES}
    assert names == {"tokenizer", "retriever", "cache", "generator"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(stack: Stack, path: Path) -> None:
    """It exits with 0 and prints something; it has at most 40 lines."""
    name = path.stem.removesuffix("_direct")
    assert len(path.read_text().splitlines()) <= 40
    environ = psutil.Process(stack.pids(name)[0]).environ()
    address = f"127.0.0.1:{environ[f'INFERMESH_{name.upper()}_PORT']}"
    done = subprocess.run(
        [sys.executable, str(path), address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
