"""What the engine and its bench launch compiles for compute capability 9.0, and fits it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.generator.backend.gpu.compiled_launches import SHAPES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def lines_of(module: str) -> list[dict[str, Any]]:
    """Return a row for each line of a process of its own, which has no interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.generator.backend.gpu.{module}"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return list(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def launches() -> dict[str, dict[str, Any]]:
    """What was compiled for each shape, at load and while serving."""
    return {line["shape"]: line for line in lines_of("compiled_launches")}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_launch_compiles_without_spills(
    launches: dict[str, dict[str, Any]], shape: str
) -> None:
    """In bfloat16, at real sizes, with all that a request may ask for."""
    kernels = [*launches[shape]["at_load"], *launches[shape]["serving"]]
    assert launches[shape]["launches"] > 500
    assert [kernel for kernel in kernels if kernel["spilled"]] == []
    assert max(kernel["registers"] for kernel in kernels) <= 255


@pytest.mark.parametrize("shape", SHAPES)
def test_no_request_waits_for_a_compiler(launches: dict[str, dict[str, Any]], shape: str) -> None:
    """The steps that are warmed up at load have all types, alignments and tiles of those served."""
    assert launches[shape]["serving"] == []


def test_every_kernel_that_is_timed_compiles() -> None:
    """At the sizes of `bench.gpu`, by the bench's own calls."""
    lines = lines_of("compiled_cases")
    assert len(lines) > 30
    assert [line["name"] for line in lines if line["spilled"] or not line["launches"]] == []
