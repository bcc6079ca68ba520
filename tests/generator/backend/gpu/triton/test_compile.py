"""Every kernel compiles for the GPUs that it is for, without spills and within shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[5]


def compiled(*options: str) -> list[dict[str, Any]]:
    """Return a row for each case, of a process of its own, which has no interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.generator.backend.gpu.triton.offline", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def assert_fit(rows: list[dict[str, Any]]) -> None:
    """Assert that all compile, use neither stack nor local memory, and have shared memory."""
    assert rows
    assert [row for row in rows if "error" in row] == []
    assert [row for row in rows if row["stack"] or row["local"]] == []
    assert [row for row in rows if row["shared"] > row["shared_limit"]] == []


@pytest.mark.timeout(600)
def test_a_common_case_of_each_kernel_compiles() -> None:
    """For sm_90 alone."""
    assert_fit(compiled("--common"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_case_compiles() -> None:
    """For sm_80 and sm_90, in the dtypes, sizes and options that are served."""
    assert_fit(compiled())
