"""Grouped products: of a mixture's experts, and of adapters."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from bench.gpu.cases.case import BF16, Calls, Case
from services.generator.backend.gpu.triton.linear.lora import (
    lora_expand_add,
    lora_shrink,
    sort_by_adapter,
)
from services.generator.backend.gpu.triton.moe.grouped_gemm import combine, grouped_gemm, row_tile
from services.generator.backend.gpu.triton.moe.moe_sort import sort_by_expert

EXPERTS, CHOSEN, DEPTH, COLUMNS = 128, 8, 2048, 1536
Members = Sequence[tuple[int, torch.Tensor, torch.Tensor]]


def experts() -> Iterator[Case]:
    """Yield a mixture at several batches, sort and sum included, and adapters at one."""
    for rows in (16, 256, 4096):
        # how many experts somebody chooses, on average
        used = EXPERTS * (1 - (1 - CHOSEN / EXPERTS) ** rows)
        yield Case(
            f"experts, {rows} x {DEPTH} -> {COLUMNS}, {CHOSEN} of {EXPERTS}",
            partial(mixture, rows, DEPTH, COLUMNS, CHOSEN, EXPERTS),
            2 * (used * DEPTH * COLUMNS + rows * COLUMNS + rows * DEPTH),
            2 * rows * CHOSEN * DEPTH * COLUMNS,
        )
    rows, adapters, rank, size = 256, 16, 16, 4096
    yield Case(
        f"lora, {rows} x {size}, {adapters} adapters of rank {rank}",
        partial(lora, rows, adapters, rank, size),
        2 * (3 * rows * size + 2 * adapters * rank * size),
        compiles=True,
    )


def mixture(
    rows: int,
    depth: int,
    columns: int,
    num_chosen: int,
    num_experts: int,
    dtype: torch.dtype = BF16,
) -> Calls:
    """Return both calls of one case; who goes to which expert is known to torch's beforehand."""
    x = torch.randn(rows, depth, dtype=dtype)
    weights = torch.randn(num_experts, columns, depth, dtype=dtype)
    topk_ids = torch.rand(rows, num_experts).topk(num_chosen).indices
    topk_weights = torch.rand(rows, num_chosen)
    tile = row_tile(rows * num_chosen, num_experts)

    def ours() -> torch.Tensor:
        order = sort_by_expert(topk_ids, num_experts, tile)
        return combine(grouped_gemm(x, weights, order), topk_weights)

    members = []
    for expert in range(num_experts):
        tokens, choices = (topk_ids == expert).nonzero(as_tuple=True)
        if len(tokens):
            members.append((expert, tokens, topk_weights[tokens, choices, None].to(dtype)))
    return ours, partial(torch_mixture, x, weights, members)


def torch_mixture(x: torch.Tensor, weights: torch.Tensor, members: Members) -> torch.Tensor:
    """Return [T, N], expert after expert."""
    out = x.new_zeros(len(x), weights.shape[1])
    for expert, tokens, topk_weights in members:
        out.index_add_(0, tokens, (x[tokens] @ weights[expert].T) * topk_weights)
    return out


def lora(rows: int, adapters: int, rank: int, size: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    x, y = (torch.randn(rows, size, dtype=dtype) for _ in range(2))
    # ours adds to y with every call, which stays finite so
    a = torch.randn(adapters, rank, size, dtype=dtype) / size
    b = torch.randn(adapters, size, rank, dtype=dtype)
    ids = torch.randint(0, adapters, (rows,), dtype=torch.int32)
    scale = torch.ones(adapters)

    def ours() -> torch.Tensor:
        order = sort_by_adapter(ids, adapters)
        lora_expand_add(y, lora_shrink(x, a, ids, order), b, ids, scale, order)
        return y

    return ours, partial(torch_lora, x, y, a, b, ids.long(), scale)


def torch_lora(
    x: torch.Tensor,
    y: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    ids: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Return y with each row's adapter added."""
    shrunk = a[ids] @ x[:, :, None]
    added = (b[ids] @ shrunk).squeeze(2)
    return y + added * scale[ids, None].to(y.dtype)
