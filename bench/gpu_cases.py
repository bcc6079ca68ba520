"""What `bench.gpu` times: each kernel in shapes of Llama-3-8B and Qwen3-0.6B, and torch's same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from services.generator.kernels.embedding import embedding
from services.generator.kernels.gated import gated
from services.generator.kernels.grouped_gemm import combine, grouped_gemm, row_tile
from services.generator.kernels.linear_fp8 import linear_fp8, quantize_fp8
from services.generator.kernels.linear_w4a16 import linear_gptq
from services.generator.kernels.linear_w8a16 import linear_w8a16
from services.generator.kernels.logprobs import logprobs
from services.generator.kernels.lora import lora_expand_add, lora_shrink, sort_by_adapter
from services.generator.kernels.paged_decode import paged_decode
from services.generator.kernels.paged_prefill import paged_attention
from services.generator.kernels.reference_linear import gptq_weight
from services.generator.kernels.rms_norm import add_rms_norm, rms_norm
from services.generator.kernels.rope_write import rope_write
from services.generator.kernels.sample import sample
from services.generator.kernels.sorted_rows import sort_by_expert

BLOCK = 16
BF16 = torch.bfloat16
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One kernel and shape; `make` returns ours and torch's call on fresh inputs.

    `num_bytes` must be moved and `num_flops` computed, whatever computes it; the larger share of
    the two ceilings is the one that counts. `other` is None where torch has no such operation.
    """

    name: str
    make: Callable[[], tuple[Call, Call | None]]
    num_bytes: float
    num_flops: float = 0.0
    tolerance: float = 2e-2


def cases() -> Iterator[Case]:
    """Yield every kernel in the shapes of Llama-3-8B and Qwen3-0.6B."""
    yield from itertools.chain(
        elementwise(), decodes(), prompts(), linears(), experts(), sampling()
    )


def elementwise() -> Iterator[Case]:
    """Norms, gates, rotation with the cache's write, embedding."""
    rows, width = 8192, 4096

    def norm() -> tuple[Call, Call]:
        x, weight = torch.randn(rows, width, dtype=BF16), torch.randn(width, dtype=BF16)
        return partial(rms_norm, x, weight, 1e-5), lambda: functional.rms_norm(
            x, (width,), weight, 1e-5
        )

    yield Case("rms_norm 8192 x 4096", norm, 4 * rows * width)

    def add_norm() -> tuple[Call, Call]:
        x, r = (torch.randn(rows, width, dtype=BF16) for _ in range(2))
        weight = torch.randn(width, dtype=BF16)
        # the residual grows with every call: small steps keep both alike
        x *= 1e-3
        return (
            partial(add_rms_norm, x, r, weight, 1e-5),
            lambda: functional.rms_norm(r.add(x), (width,), weight, 1e-5),
        )

    yield Case("add_rms_norm 8192 x 4096", add_norm, 8 * rows * width)

    def gate() -> tuple[Call, Call]:
        x = torch.randn(rows, 2 * 14336, dtype=BF16)
        a, b = x.chunk(2, dim=1)
        return partial(gated, x, "silu"), lambda: functional.silu(a) * b

    yield Case("silu gate 8192 x 14336", gate, 6 * rows * 14336)

    def embed() -> tuple[Call, Call]:
        table = torch.randn(128256, width, dtype=BF16)
        ids = torch.randint(0, 128256, (rows,))
        return partial(embedding, ids, table), lambda: functional.embedding(ids, table)

    yield Case("embedding 8192 x 4096", embed, 4 * rows * width)

    heads, kv_heads, dim = 32, 8, 128

    def rope() -> tuple[Call, None]:
        qkv = torch.randn(rows, (heads + 2 * kv_heads) * dim, dtype=BF16)
        angles = torch.rand(rows, dim // 2)
        keys, values = (
            torch.zeros(rows // BLOCK, BLOCK, kv_heads, dim, dtype=BF16) for _ in range(2)
        )
        slots = torch.randperm(rows)
        return lambda: rope_write(
            qkv, angles.cos(), angles.sin(), slots, keys, values, heads, kv_heads, dim
        ), None

    moved = rows * dim * 2 * (2 * heads + 4 * kv_heads) + rows * dim * 4
    yield Case("rope and KV write, 8192 tokens", rope, moved)


def paged(
    sequences: int, length: int, heads: int, kv_heads: int, dim: int, queries: int
) -> tuple[torch.Tensor, ...]:
    """Return queries, both caches, the block table, and lengths, in scattered blocks."""
    blocks = -(-length // BLOCK)
    caches = [torch.randn(sequences * blocks, BLOCK, kv_heads, dim, dtype=BF16) for _ in range(2)]
    table = torch.randperm(sequences * blocks).to(torch.int32).view(sequences, blocks)
    q = torch.randn(sequences * queries, heads, dim, dtype=BF16)
    return q, *caches, table, torch.full((sequences,), length, dtype=torch.int32)


def dense(cache: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """Return the cache's content as [S, KVH, length, D]."""
    sequences = len(table)
    rows = cache[table.long()].view(sequences, -1, *cache.shape[2:])[:, :length]
    return rows.transpose(1, 2).contiguous()


HEADS, KV_HEADS, DIM = 32, 8, 128


def decodes() -> Iterator[Case]:
    """Attention of one query per sequence."""
    for sequences, length in ((1, 4096), (8, 4096), (64, 4096), (256, 1024), (1, 32768)):
        num_bytes = 4 * sequences * length * KV_HEADS * DIM
        name = f"decode attention, {sequences} x {length}, {HEADS}/{KV_HEADS} heads of {DIM}"
        yield Case(name, partial(decode, sequences, length), num_bytes)


def decode(sequences: int, length: int) -> tuple[Call, Call]:
    """Return both calls of one case."""
    q, k, v, table, lengths = paged(sequences, length, HEADS, KV_HEADS, DIM, 1)
    keys, values = dense(k, table, length), dense(v, table, length)
    ours = partial(paged_decode, q, k, v, table, lengths, DIM**-0.5)
    return ours, lambda: functional.scaled_dot_product_attention(
        q[:, :, None], keys, values, enable_gqa=True
    ).squeeze(2)


def prompts() -> Iterator[Case]:
    """Causal attention of whole prompts."""
    for length in (2048, 8192):
        num_flops = 2 * HEADS * DIM * length**2  # half of 4, because it is causal
        name = f"prompt attention, {length}, {HEADS}/{KV_HEADS} heads of {DIM}"
        yield Case(name, partial(prompt, length), 0.0, num_flops)


def prompt(length: int) -> tuple[Call, Call]:
    """Return both calls of one case."""
    q, k, v, table, lengths = paged(1, length, HEADS, KV_HEADS, DIM, length)
    starts = torch.tensor([0, length], dtype=torch.int32)
    keys, values = dense(k, table, length), dense(v, table, length)
    queries = q.transpose(0, 1)[None].contiguous()
    ours = partial(paged_attention, q, k, v, table, starts, lengths, DIM**-0.5)
    return ours, lambda: functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=True
    )[0].transpose(0, 1)


def linears() -> Iterator[Case]:
    """Quantised weights against torch's bfloat16 product of the same."""
    for columns, depth in ((14336, 4096), (4096, 14336), (6144, 1024)):
        for rows in (1, 16, 64, 256):
            shape = (rows, depth, columns)
            name = f"{rows} x {depth} -> {columns}"
            num_flops = 2 * rows * columns * depth
            moved = 2 * rows * (columns + depth)
            weights = columns * depth
            yield Case(f"w8a16 {name}", partial(w8a16, *shape), moved + weights, num_flops)
            yield Case(f"w4a16 {name}", partial(w4a16, *shape), moved + weights / 2, num_flops)
            if torch.cuda.get_device_capability() >= (9, 0):
                yield Case(f"fp8 {name}", partial(fp8, *shape), moved + weights, num_flops)


def w8a16(rows: int, depth: int, columns: int) -> tuple[Call, Call]:
    """Return both calls of one case."""
    x = torch.randn(rows, depth, dtype=BF16)
    weight = torch.randint(-127, 128, (columns, depth), dtype=torch.int8)
    scales = torch.rand(columns) / 127 / depth**0.5
    whole = (weight * scales[:, None]).to(BF16)
    return partial(linear_w8a16, x, weight, scales), lambda: functional.linear(x, whole)


def w4a16(rows: int, depth: int, columns: int) -> tuple[Call, Call]:
    """Return both calls of one case."""
    x = torch.randn(rows, depth, dtype=BF16)
    words = partial(torch.randint, -(2**31), 2**31 - 1, dtype=torch.int32)
    qweight, qzeros = words((depth // 8, columns)), words((depth // 128, columns // 8))
    scales = (torch.rand(depth // 128, columns) / 8 / depth**0.5).to(BF16)
    whole = gptq_weight(qweight, qzeros, scales).to(BF16)
    return partial(linear_gptq, x, qweight, qzeros, scales), lambda: functional.linear(x, whole)


def fp8(rows: int, depth: int, columns: int) -> tuple[Call, Call]:
    """Return both calls of one case, of the same rounded numbers."""
    x, x_scale = quantize_fp8(torch.randn(rows, depth, dtype=BF16))
    weight, scale = quantize_fp8(torch.randn(columns, depth, dtype=BF16))
    rounded = (x.float() * x_scale[:, None]).to(BF16)
    whole = (weight.float() * scale[:, None]).to(BF16)
    ours = partial(linear_fp8, x, weight, x_scale, scale)
    return ours, lambda: functional.linear(rounded, whole)


def experts() -> Iterator[Case]:
    """Grouped products of a mixture, and of adapters."""
    num_experts, chosen, depth, columns = 128, 8, 2048, 1536
    for rows in (16, 256, 4096):
        used = min(num_experts, rows * chosen)
        num_bytes = 2 * (used * depth * columns + rows * chosen * columns + rows * depth)
        num_flops = 2 * rows * chosen * depth * columns
        name = f"experts, {rows} x {depth} -> {columns}, {chosen} of {num_experts}"
        make = partial(mixture, rows, depth, columns, chosen, num_experts)
        yield Case(name, make, num_bytes, num_flops)
    num_bytes = 2 * (3 * 256 * 4096 + 2 * 16 * 16 * 4096)
    yield Case("lora, 256 x 4096, 16 adapters of rank 16", lora, num_bytes)


def mixture(
    rows: int, depth: int, columns: int, num_chosen: int, num_experts: int
) -> tuple[Call, None]:
    """Return our call of one case."""
    x = torch.randn(rows, depth, dtype=BF16)
    weights = torch.randn(num_experts, columns, depth, dtype=BF16)
    chosen = torch.rand(rows, num_experts).topk(num_chosen).indices
    shares = torch.rand(rows, num_chosen)
    tile = row_tile(rows * num_chosen, num_experts)

    def run() -> torch.Tensor:
        order = sort_by_expert(chosen, num_experts, tile)
        return combine(grouped_gemm(x, weights, order), shares)

    return run, None


def lora() -> tuple[Call, None]:
    """Return our call of one case."""
    rows, adapters, rank, size = 256, 16, 16, 4096
    x, y = (torch.randn(rows, size, dtype=BF16) for _ in range(2))
    a = torch.randn(adapters, rank, size, dtype=BF16)
    b = torch.randn(adapters, size, rank, dtype=BF16)
    ids = torch.randint(0, adapters, (rows,), dtype=torch.int32)
    scale = torch.ones(adapters)

    def run() -> None:
        order = sort_by_adapter(ids, adapters)
        lora_expand_add(y, lora_shrink(x, a, ids, order), b, ids, scale, order)

    return run, None


def sampling() -> Iterator[Case]:
    """A step's draws, and their log-probabilities."""
    vocab = 151936
    for rows in (1, 64, 256):
        num_bytes = 2 * rows * vocab
        yield Case(
            f"sample, {rows} x {vocab}, top_k and top_p", partial(drawn, rows, vocab), num_bytes
        )
        yield Case(f"logprobs, {rows} x {vocab}, top 5", partial(told, rows, vocab), num_bytes)


def drawn(rows: int, vocab: int) -> tuple[Call, None]:
    """Return our call of one case."""
    logits = torch.randn(rows, vocab, dtype=BF16)
    filters = (
        torch.full((rows,), 0.8),
        torch.full((rows,), 50, dtype=torch.int32),
        torch.full((rows,), 0.9),
        torch.zeros(rows),
    )
    positions = torch.zeros(rows, dtype=torch.int64)
    return partial(sample, logits, *filters, torch.arange(rows), positions), None


def told(rows: int, vocab: int) -> tuple[Call, None]:
    """Return our call of one case."""
    logits = torch.randn(rows, vocab, dtype=BF16)
    return partial(logprobs, logits, torch.zeros(rows, dtype=torch.int64), 5), None
