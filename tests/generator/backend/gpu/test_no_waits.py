"""Nothing that is launched waits for the device: no operation asks for a value or a size of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.common.checkpoints import write_checkpoint
from services.generator.backend.gpu.device import Device
from services.generator.engine import SamplingParams
from tests.generator.backend.gpu.engines import on_device
from tests.generator.backend.gpu.test_engine import SHAPE

# the interpreter's logarithm of a min_p of zero
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered in log")

# each reads from the device what the host goes on with
WAITING = frozenset(
    {"item", "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
)


class Watch(TorchDispatchMode):
    """Remembers the operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.num_seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_seen += 1
        name = func.overloadpacket.__name__
        if name in WAITING or (name == "index" and any(_is_mask(each) for each in args[1])):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "logprobs": 3},
        {"repetition_penalty": 1.3, "logit_bias": ((7, 2.0),), "min_tokens": 2},
        {"allowed_token_ids": (11, 12, 13), "prompt_logprobs": 1},
        {"beam_width": 2},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_a_step_is_launched_without_a_wait(
    tmp_path: Path, device: Device, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, decodes, and sampling in every way."""
    engine: Any = on_device(write_checkpoint(tmp_path, SHAPE), device)
    runner = engine._runner
    watch, launch = Watch(), runner._launch

    def watched(*arguments: Any) -> Any:
        with watch:
            return launch(*arguments)

    monkeypatch.setattr(runner, "_launch", watched)
    params = SamplingParams(**{"max_tokens": 3, "temperature": 0.0, **changes})
    for name, length in (("a", 3), ("b", 20)):
        engine.add(name, [5] * length, params)
    while engine.has_work:
        engine.step()
    assert watch.num_seen > 100
    assert watch.waits == []
