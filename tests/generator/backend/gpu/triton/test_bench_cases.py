"""What `bench.gpu` holds each kernel against computes the same, in small shapes."""

from collections.abc import Callable

import pytest
import torch

from bench.gpu import attention_cases, elementwise_cases, expert_cases, linear_cases, sampling_cases
from bench.gpu.cases.case import Calls, relative_error
from tests.generator.interpreter import IS_GPU

DEVICE = "cuda" if IS_GPU else "cpu"
MAKERS: dict[str, Callable[[], Calls]] = {
    "norm": lambda: elementwise_cases.norm(3, 64, torch.float32),
    "gate": lambda: elementwise_cases.gate(3, 64, torch.float32),
    "embedding": lambda: elementwise_cases.embed(5, 64, 100, torch.float32),
    "rope": lambda: elementwise_cases.rope(5, 4, 2, 32, False, torch.float32),
    "norms and rope": lambda: elementwise_cases.rope(5, 4, 2, 32, True, torch.float32),
    "decode": lambda: attention_cases.decode(2, 40, 4, 2, 64, torch.float32),
    "prompt": lambda: attention_cases.prompt(40, 4, 2, 64, torch.float32),
    "w8a16": lambda: linear_cases.w8a16(2, 128, 64, torch.float32),
    "w4a16": lambda: linear_cases.w4a16(2, 128, 64, torch.float32),
    "experts": lambda: expert_cases.mixture(4, 32, 32, 2, 4, torch.float32),
    "lora": lambda: expert_cases.lora(4, 3, 8, 64, torch.float32),
    "logprobs": lambda: sampling_cases.described(2, 600, torch.float32),
}


@pytest.mark.parametrize("name", MAKERS)
def test_torch_computes_the_same(name: str) -> None:
    """A kernel passes its gate, which is computed before the kernel may write to its inputs."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        ours, other = MAKERS[name]()
    expected = other()
    assert relative_error(ours(), expected) < 1e-4


@pytest.mark.filterwarnings("ignore:divide by zero encountered in log")
def test_draws_are_among_those_that_torch_keeps() -> None:
    """Both draw at random; ours has to be one that the filters let through."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        ours, other = sampling_cases.drawn(2, 600, torch.float32)
    drawn, kept = ours(), other()
    assert sampling_cases.share_outside(drawn, kept) == 0.0
    _, order, is_kept = kept
    drawn[0] = order[0, ~is_kept[0]][0]
    assert sampling_cases.share_outside(drawn, kept) == 0.5
