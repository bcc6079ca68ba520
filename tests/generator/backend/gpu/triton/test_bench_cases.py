"""What `bench.gpu` holds each kernel against computes the same, in small shapes."""

from collections.abc import Callable

import pytest
import torch

from bench.gpu.cases import attention, elementwise, experts, linear, sampling
from bench.gpu.cases.case import Calls, relative_error
from tests.generator.interpreter import IS_GPU

DEVICE = "cuda" if IS_GPU else "cpu"
MAKERS: dict[str, Callable[[], Calls]] = {
    "norm": lambda: elementwise.norm(3, 64, torch.float32),
    "gate": lambda: elementwise.gate(3, 64, torch.float32),
    "embedding": lambda: elementwise.embed(5, 64, 100, torch.float32),
    "rope": lambda: elementwise.rope(5, 4, 2, 32, False, torch.float32),
    "norms and rope": lambda: elementwise.rope(5, 4, 2, 32, True, torch.float32),
    "decode": lambda: attention.decode(2, 40, 4, 2, 64, torch.float32),
    "prompt": lambda: attention.prompt(40, 4, 2, 64, torch.float32),
    "w8a16": lambda: linear.w8a16(2, 128, 64, torch.float32),
    "w4a16": lambda: linear.w4a16(2, 128, 64, torch.float32),
    "w4a16 q4_0": lambda: linear.grouped("q4_0", 2, 128, 64, torch.float32),
    "w4a16 q4_1": lambda: linear.grouped("q4_1", 2, 128, 64, torch.float32),
    "w4a16 q4_k": lambda: linear.grouped("q4_k", 2, 128, 64, torch.float32),
    "experts": lambda: experts.mixture(4, 32, 32, 2, 4, torch.float32),
    "lora": lambda: experts.lora(4, 3, 8, 64, torch.float32),
    "logprobs": lambda: sampling.described(2, 600, torch.float32),
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
        ours, other = sampling.drawn(2, 600, torch.float32)
    drawn, kept = ours(), other()
    assert sampling.share_outside(drawn, kept) == 0.0
    _, order, is_kept = kept
    drawn[0] = order[0, ~is_kept[0]][0]
    assert sampling.share_outside(drawn, kept) == 0.5
