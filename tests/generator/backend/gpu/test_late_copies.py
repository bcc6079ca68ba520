"""Host memory is left alone while the device may still read or write it."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common.checkpoints import write_checkpoint
from services.generator.engine import SamplingParams
from tests.generator.backend.gpu.engines import on_device
from tests.generator.backend.gpu.late_copies import Copies, LateDevice
from tests.generator.backend.gpu.test_engine import SHAPE

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="its device needs the interpreter"),
    # the interpreter's logarithm of a min_p of zero
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log"),
]

ASKED: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "top_p": 0.9},
    {"logprobs": 2, "prompt_logprobs": 1},
    {"repetition_penalty": 1.2, "min_tokens": 2},
    {"n": 2},
    {"typical_p": 0.9, "temperature": 1.0},
    {"logit_bias": ((4, 1.0),), "allowed_token_ids": (3, 4, 5)},
]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_written_where_a_copy_is_under_way(tmp_path: Path, seed: int) -> None:
    """Requests come, end and are aborted while steps are launched behind each other."""
    rng = random.Random(seed)
    device = LateDevice()
    engine = on_device(write_checkpoint(tmp_path, SHAPE), device, max_num_seqs=6)
    with Copies(device):
        for number in range(14):
            params = {"temperature": 0.0, "max_tokens": rng.randint(1, 6), **rng.choice(ASKED)}
            params["min_tokens"] = min(params.get("min_tokens", 0), params["max_tokens"])
            prompt = [rng.randrange(89) for _ in range(rng.randint(1, 24))]
            engine.add(str(number), prompt, SamplingParams(**params))
            for _ in range(rng.randint(0, 3)):
                engine.step()
            if rng.random() < 0.2:
                engine.abort(str(rng.randrange(number + 1)))
        while engine.has_work:
            engine.step()
            engine.check()
    assert device.num_copies > 50
    assert device.num_torn == 0
    assert engine.stats().num_faults == 0


def test_launches_that_fail_leave_nothing_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many fail one after the other, each after its inputs were sent."""
    device = LateDevice()
    engine: Any = on_device(write_checkpoint(tmp_path, SHAPE), device)
    launch = engine._runner._sampler.launch
    num_failures = 0

    def fail_often(*arguments: Any) -> Any:
        nonlocal num_failures
        num_failures += 1
        if num_failures % 12 < 7:
            raise RuntimeError("told to fail")
        return launch(*arguments)

    monkeypatch.setattr(engine._runner._sampler, "launch", fail_often)
    with Copies(device):
        for number in range(12):
            for name in (f"a{number}", f"b{number}"):
                params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
                engine.add(name, [number + 1] * 3, params)
            engine.step()
            engine._num_faults_in_a_row = 0
        while engine.has_work:
            engine.step()
            engine.check()
    assert num_failures > 12
    assert device.num_torn == 0
    caplog.clear()
