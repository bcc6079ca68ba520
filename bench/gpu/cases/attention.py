"""Attention over the paged cache, of single queries and of prompts, with Llama-3-8B's heads."""

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from bench.gpu.cases.case import BF16, Calls, Case
from services.generator.backend.gpu.triton.attention.paged_decode import paged_decode
from services.generator.backend.gpu.triton.attention.paged_prefill import paged_prefill

BLOCK = 16
HEADS, KV_HEADS, DIM = 32, 8, 128
DECODE_AIMS = {(64, 4096): 0.80}
PROMPT_AIMS = {8192: 0.55}


def attention() -> Iterator[Case]:
    """Yield decodes, bound by memory, and prompts, bound by arithmetic."""
    heads = f"{HEADS}/{KV_HEADS} heads of {DIM}"
    for sequences, length in ((1, 4096), (8, 4096), (64, 4096), (256, 1024), (1, 32768)):
        num_bytes = 4 * sequences * (length * KV_HEADS + HEADS) * DIM
        yield Case(
            f"decode attention, {sequences} x {length}, {heads}",
            partial(decode, sequences, length, HEADS, KV_HEADS, DIM),
            num_bytes,
            aim=DECODE_AIMS.get((sequences, length)),
        )
    for length in (2048, 8192):
        yield Case(
            f"prompt attention, {length}, {heads}",
            partial(prompt, length, HEADS, KV_HEADS, DIM),
            4 * length * (HEADS + KV_HEADS) * DIM,
            2 * HEADS * DIM * length**2,  # half of 4, because it is causal
            aim=PROMPT_AIMS.get(length),
        )


def decode(
    sequences: int, length: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype = BF16
) -> Calls:
    """Return both calls of one case; torch's has the same keys and values in order."""
    q, k, v, table, lengths = _paged(sequences, length, heads, kv_heads, dim, 1, dtype)
    keys, values = _dense(k, table, length), _dense(v, table, length)
    ours = partial(paged_decode, q, k, v, table, lengths, dim**-0.5)
    return ours, partial(torch_decode, q, keys, values)


def torch_decode(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return [S, H, D] of `q` of that shape, keys and values [S, KVH, length, D]."""
    return functional.scaled_dot_product_attention(
        q[:, :, None], keys, values, enable_gqa=True
    ).squeeze(2)


def prompt(length: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    q, k, v, table, lengths = _paged(1, length, heads, kv_heads, dim, length, dtype)
    starts = torch.tensor([0, length], dtype=torch.int32)
    keys, values = _dense(k, table, length), _dense(v, table, length)
    queries = q.transpose(0, 1)[None].contiguous()
    ours = partial(paged_prefill, q, k, v, table, starts, lengths, dim**-0.5)
    return ours, partial(torch_prompt, queries, keys, values)


def torch_prompt(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return [T, H, D] of queries [1, H, T, D], keys and values [1, KVH, T, D]."""
    attended = functional.scaled_dot_product_attention(
        q, keys, values, is_causal=True, enable_gqa=True
    )
    return attended[0].transpose(0, 1)


def _paged(
    sequences: int,
    length: int,
    heads: int,
    kv_heads: int,
    dim: int,
    queries: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, ...]:
    """Return queries, both caches, the block table, and lengths, in scattered blocks."""
    blocks = -(-length // BLOCK)
    caches = [torch.randn(sequences * blocks, BLOCK, kv_heads, dim, dtype=dtype) for _ in range(2)]
    table = torch.randperm(sequences * blocks).to(torch.int32).view(sequences, blocks)
    q = torch.randn(sequences * queries, heads, dim, dtype=dtype)
    return q, *caches, table, torch.full((sequences,), length, dtype=torch.int32)


def _dense(cache: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    """Return the cache's content as [S, KVH, length, D]."""
    rows = cache[table.long()].flatten(1, 2)[:, :length]
    return rows.transpose(1, 2).contiguous()
