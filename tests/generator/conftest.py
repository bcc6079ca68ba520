"""One tiny checkpoint for all tests of this folder, and requests without an engine."""

import atexit
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import tests.generator.interpreter  # noqa: F401  before anything imports Triton
from services.generator.backend.cpu.native import levels
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from tests.generator.backend.cpu.native import aarch64
from tests.generator.tiny import write_checkpoint

CPU_LEVEL = "INFERMESH_GENERATOR_CPU_LEVEL"
# as `make test-levels` sets it, like what holds libraries down
if CPU_LEVEL in os.environ:
    levels.use(os.environ[CPU_LEVEL])
# as `make test-arm` sets it: all modules after this one find that processor's kernels
if os.environ.get("TEST_PROCESSOR") == "aarch64":
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    emulator = aarch64.Emulator(pytest.MonkeyPatch(), Path(folder.name))
    atexit.register(emulator.close)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in Hugging Face's layout."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def make_request() -> Callable[..., Request]:
    """Return a maker of requests, each with a name of its own."""
    num_made = 0

    def make(prompt: Sequence[int] = (1, 2, 3), **changes: object) -> Request:
        nonlocal num_made
        num_made += 1
        fields: dict[str, object] = {
            "request_id": f"r{num_made}",
            "token_ids": list(prompt),
            "params": SamplingParams(max_tokens=8),
            "seed": 0,
            "stop_token_ids": frozenset(),
            "root_hash": root_hash(""),
            "arrival_index": num_made,
            "arrival_s": 0.0,
        }
        return Request(**{**fields, **changes})  # type: ignore[arg-type]

    return make
