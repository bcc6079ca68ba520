"""Every kernel compiles for the GPUs that it is for, without spills and within shared memory."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[5]


@cache
def compiled() -> list[dict[str, Any]]:
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.generator.backend.gpu.triton.offline"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.timeout(600)
def test_every_kernel_compiles() -> None:
    """For sm_80 and sm_90; the error is the compiler's."""
    errors = [case for case in compiled() if "error" in case]
    assert compiled() and not errors, errors


@pytest.mark.timeout(600)
def test_no_kernel_spills() -> None:
    """Neither stack nor local memory is used."""
    spilling = [case for case in compiled() if case.get("stack") or case.get("local")]
    assert not spilling, spilling


@pytest.mark.timeout(600)
def test_shared_memory_suffices() -> None:
    """What a block asks for is there."""
    too_large = [case for case in compiled() if case.get("shared", 0) > case["shared_limit"]]
    assert not too_large, too_large
