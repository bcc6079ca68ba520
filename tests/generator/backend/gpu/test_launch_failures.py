"""A pass that cannot be launched ahead, and who is to blame."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common.checkpoints import write_checkpoint
from services.generator.backend.gpu.device import HostDevice
from services.generator.engine import SamplingParams
from tests.generator.backend.gpu.engines import on_device, run
from tests.generator.backend.gpu.test_engine import SHAPE

if torch.cuda.is_available():
    pytest.skip("HostDevice needs the interpreter", allow_module_level=True)

GREEDY = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
PROMPTS = {"a": [5, 6, 7], "b": list(range(20, 40))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of one layer whose heads the kernels take."""
    return write_checkpoint(tmp_path_factory.mktemp("llama"), SHAPE)


@pytest.mark.parametrize("prompts", [{"a": PROMPTS["a"]}, PROMPTS], ids=["alone", "beside"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), ValueError("no kernel")])
def test_a_pass_that_is_not_launched_ahead_is_launched_later(
    folder: Path,
    prompts: dict[str, list[int]],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The requests of the step before it neither fail nor give way."""
    expected = run(on_device(folder, HostDevice()), prompts, GREEDY)
    engine = on_device(folder, HostDevice())
    runner: Any = engine._runner
    launch, num_failures = runner._launch, 0

    def failing(prepared: Any, drawn: Any = None) -> Any:
        nonlocal num_failures
        if drawn is not None:
            num_failures += 1
            raise error
        return launch(prepared)

    runner._launch = failing
    assert run(engine, prompts, GREEDY) == expected
    assert num_failures > 0
    assert engine.stats().num_preemptions == engine.stats().num_faults == 0
    caplog.clear()
