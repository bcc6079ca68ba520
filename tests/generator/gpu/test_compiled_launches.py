"""What the engine launches while it serves compiles for compute capability 9.0, and fits it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.generator.gpu.compiled_launches import SHAPES


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, Any]]:
    """What was compiled for each shape, at load and while serving."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.generator.gpu.compiled_launches"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = map(json.loads, done.stdout.splitlines())
    return {line["shape"]: line for line in lines}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_launch_compiles_without_spills(told: dict[str, dict[str, Any]], shape: str) -> None:
    """In bfloat16, at real sizes, with all that a request may ask for."""
    kernels = [*told[shape]["at_load"], *told[shape]["serving"]]
    assert told[shape]["launches"] > 500
    assert [kernel for kernel in kernels if kernel["spilled"]] == []
    assert max(kernel["registers"] for kernel in kernels) <= 255


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_request_waits_for_a_compiler(told: dict[str, dict[str, Any]], shape: str) -> None:
    """The steps that are rehearsed at load have all types, alignments and tiles of those served."""
    assert told[shape]["serving"] == []
