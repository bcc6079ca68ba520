"""Mixture of experts on a GPU: all experts' products in two launches, whichever are chosen."""

from collections.abc import Iterable

import torch

from services.generator.backend.gpu.triton.moe.grouped_gemm import combine, grouped_gemm, row_tile
from services.generator.backend.gpu.triton.moe.moe_sort import sort_by_expert
from services.generator.model.activation import Activation
from services.generator.model.linear import Linear


class GroupedMixture:
    """Sends each token to its best experts (arXiv:1701.06538), as `model.mlp.Mixture` does.

    `gate_up` is [experts, 2 inner, hidden] and `down` [experts, hidden, inner]; `router` maps
    [T, hidden] to [T, experts]. Nothing waits for the device.
    """

    def __init__(
        self,
        router: Linear,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        activation: Activation,
        num_chosen: int,
        normalizes: bool,
    ) -> None:
        self._router = router
        self._gate_up = gate_up
        self._down = down
        self._activation = activation
        self._num_chosen = num_chosen
        self._normalizes = normalizes

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual`, to which the mixture of [T, hidden] rows was added in place."""
        shares, chosen = self._choose(x)
        num_experts = len(self._gate_up)
        rows = sort_by_expert(chosen, num_experts, row_tile(chosen.numel(), num_experts))
        inner = self._activation(grouped_gemm(x, self._gate_up, rows))
        return residual.add_(combine(grouped_gemm(inner, self._down, rows), shares))

    def _choose(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 shares and int64 experts, both [T, num_chosen]."""
        probabilities = self._router(x).softmax(dim=-1, dtype=torch.float32)
        shares, chosen = probabilities.topk(self._num_chosen, dim=-1)
        if self._normalizes:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares, chosen

    def __repr__(self) -> str:
        return f"GroupedMixture({self._num_chosen} of {len(self._gate_up)} experts)"


def stack_experts(
    experts: Iterable[tuple[torch.Tensor, torch.Tensor]], num_experts: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all experts' first and all their second matrices on the device, [experts, out, in].

    One expert is read at a time, so that no more than one is in memory twice.
    """
    stacks: list[torch.Tensor] = []
    for index, matrices in enumerate(experts):
        if not stacks:
            stacks = [
                matrix.new_empty(num_experts, *matrix.shape, device=device) for matrix in matrices
            ]
        for stack, matrix in zip(stacks, matrices, strict=True):
            stack[index].copy_(matrix)
    first, second = stacks
    return first, second
