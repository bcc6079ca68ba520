"""Norms, gates, rotation with the cache's write, embedding: all bound by memory."""

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from bench.gpu.cases.case import BF16, Calls, Case
from services.generator.backend.gpu.triton.attention.rope_write import rope_write
from services.generator.backend.gpu.triton.elementwise.embedding import embedding
from services.generator.backend.gpu.triton.elementwise.gated_activation import gated_activation
from services.generator.backend.gpu.triton.elementwise.rms_norm import rms_norm

ROWS, WIDTH, INNER, VOCAB, DIM = 8192, 4096, 14336, 128256, 128
BLOCK = 16
EPS = 1e-5
AIM = 0.85


def elementwise() -> Iterator[Case]:
    """Yield each in the width of Llama-3-8B, and the head norms of Qwen 3."""

    def case(name: str, make: partial[Calls], num_bytes: float, aim: float | None = AIM) -> Case:
        return Case(name, make, num_bytes, aim=aim, compiles=True)

    size = ROWS * WIDTH
    yield case(f"rms_norm, {ROWS} x {WIDTH}", partial(norm, ROWS, WIDTH), 4 * size)
    yield case(f"silu gate, {ROWS} x {INNER}", partial(gate, ROWS, INNER), 6 * ROWS * INNER)
    for heads, has_norm in ((32, False), (16, True)):
        kv_heads = 8
        num_bytes = ROWS * DIM * (2 * (2 * heads + 4 * kv_heads) + 4)
        name = f"{'head norms, ' * has_norm}rope and KV write, {ROWS} x {heads}/{kv_heads} heads"
        yield case(name, partial(rope, ROWS, heads, kv_heads, DIM, has_norm), num_bytes)
    make = partial(embed, ROWS, WIDTH, VOCAB)
    yield case(f"embedding, {ROWS} x {WIDTH}", make, 4 * size, aim=None)


def norm(rows: int, width: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    x, weight = torch.randn(rows, width, dtype=dtype), torch.randn(width, dtype=dtype)
    return partial(rms_norm, x, weight, EPS), partial(torch_norm, x, weight)


def torch_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the RMS norm of rows."""
    return functional.rms_norm(x, (x.shape[1],), weight, EPS)


def gate(rows: int, width: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    x = torch.randn(rows, 2 * width, dtype=dtype)
    return partial(gated_activation, x, "silu"), partial(torch_gate, x)


def torch_gate(x: torch.Tensor) -> torch.Tensor:
    """Return silu of the first half times the second."""
    a, b = x.chunk(2, dim=1)
    return functional.silu(a) * b


def embed(rows: int, width: int, vocab: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    table = torch.randn(vocab, width, dtype=dtype)
    ids = torch.randint(0, vocab, (rows,))
    return partial(embedding, ids, table), partial(functional.embedding, ids, table)


def rope(
    rows: int, heads: int, kv_heads: int, dim: int, has_norm: bool, dtype: torch.dtype = BF16
) -> Calls:
    """Return both calls of one case; each has caches of its own."""
    qkv = torch.randn(rows, (heads + 2 * kv_heads) * dim, dtype=dtype)
    angles = torch.rand(rows, dim // 2)
    cos, sin, slots = angles.cos(), angles.sin(), torch.randperm(rows)
    shape = (-(-rows // BLOCK), BLOCK, kv_heads, dim)
    keys, values, other_keys, other_values = (torch.zeros(shape, dtype=dtype) for _ in range(4))
    weight = torch.rand(heads + kv_heads, dim) + 0.5 if has_norm else None
    operands = (qkv, cos, sin, slots)

    def ours() -> tuple[torch.Tensor, ...]:
        rope_write(*operands, keys, values, heads, kv_heads, dim, weight, EPS)
        return qkv.view(rows, -1, dim)[:, :heads], keys, values

    return ours, partial(torch_rope_write, *operands, other_keys, other_values, heads, weight)


def torch_rope_write(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    heads: int,
    weight: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """Return the rotated queries, and both caches after their write."""
    _, _, kv_heads, dim = keys.shape
    heads_of_rows = qkv.view(len(qkv), -1, dim)
    rotating, v = heads_of_rows.tensor_split((heads + kv_heads,), 1)
    rotating = rotating.float()
    if weight is not None:
        rotating = functional.rms_norm(rotating, (dim,), None, EPS) * weight
    first, second = rotating.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(qkv.dtype)
    q, k = rotated.tensor_split((heads,), 1)
    for cache, rows in ((keys, k), (values, v)):
        cache.flatten(0, 1).index_copy_(0, slots, rows)
    return q, keys, values
