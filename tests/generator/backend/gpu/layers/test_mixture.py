"""Mixtures by grouped products against the mixture that sends tokens to one expert at a time."""

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.layers.mixture import GroupedMixture, stack_experts
from services.generator.backend.gpu.layers.torch_linear import TorchLinear
from services.generator.backend.gpu.triton.elementwise.gated_activation import gated_activation
from services.generator.model.mlp import Expert, Mixture
from tests.generator.backend.gpu.triton.compare import assert_near

EXPERTS, HIDDEN, INNER = 5, 48, 24
no_bfloat16 = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="the interpreter computes bfloat16 products wrongly"
)
DTYPES = pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=no_bfloat16)],
)


def activation(x: torch.Tensor) -> torch.Tensor:
    return gated_activation(x, "silu")


class RoundedLinear(TorchLinear):
    """Takes float32 rows in its weights' dtype."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return super().__call__(x.to(self._weight.dtype))


class Weights:
    """A router and experts of random weights."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        torch.manual_seed(3)
        self.device = device
        self.router = torch.randn(EXPERTS, HIDDEN, device=device).to(dtype)
        self.experts = [
            (
                (torch.randn(2 * INNER, HIDDEN, device=device) / HIDDEN**0.5).to(dtype),
                (torch.randn(HIDDEN, INNER, device=device) / INNER**0.5).to(dtype),
            )
            for _ in range(EXPERTS)
        ]

    def grouped(self, num_chosen: int, normalizes: bool) -> GroupedMixture:
        stacks = stack_experts(iter(self.experts), EXPERTS, self.device)
        return GroupedMixture(TorchLinear(self.router), *stacks, activation, num_chosen, normalizes)

    def reference(self, num_chosen: int, normalizes: bool) -> Mixture:
        """Return the same in float32, one expert after the other, by the same router."""
        experts = [
            Expert(TorchLinear(up.float()), TorchLinear(down.float()), activation)
            for up, down in self.experts
        ]
        router = RoundedLinear(self.router)
        return Mixture(router, experts, num_chosen, normalizes)


@DTYPES
@pytest.mark.parametrize(
    ("rows", "num_chosen", "normalizes"),
    [(1, 2, True), (7, 1, False), (7, 5, False), (90, 2, True)],
)
def test_experts_add_what_they_add_one_by_one(
    rows: int, num_chosen: int, normalizes: bool, dtype: torch.dtype, device: Device
) -> None:
    """One expert, some and all; more tokens than a tile has, in place."""
    weights = Weights(dtype, device.device)
    x, residual = (torch.randn(rows, HIDDEN, device=device.device).to(dtype) for _ in range(2))
    expected = weights.reference(num_chosen, normalizes).add_to(x.float(), residual.float())
    out = weights.grouped(num_chosen, normalizes).add_to(x, residual)
    assert out.data_ptr() == residual.data_ptr()
    assert_near("out", out, expected)


def test_no_tokens_are_no_work(device: Device) -> None:
    """An empty pass is not an error."""
    mixture = Weights(torch.float32, device.device).grouped(2, True)
    empty = torch.empty(0, HIDDEN, device=device.device)
    assert mixture.add_to(empty, empty).shape == (0, HIDDEN)


def test_a_captured_mixture_is_the_same(device: Device) -> None:
    """Nothing waits for the device, and other experts may be chosen when it is run again."""
    mixture = Weights(torch.float16, device.device).grouped(2, True)
    x = torch.randn(9, HIDDEN, device=device.device).half()
    out = torch.empty_like(x)

    def work() -> None:
        out.zero_()
        mixture.add_to(x, out)

    [replay] = device.capture(work)
    x.copy_(torch.randn_like(x))
    replay()
    assert_near("out", out, mixture.add_to(x, torch.zeros_like(x)))
