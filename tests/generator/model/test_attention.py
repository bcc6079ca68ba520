"""Paged attention against a loop over requests and heads."""

import math
from dataclasses import dataclass

import pytest
import torch

from services.generator.engine.batch import build_batch
from services.generator.engine.chunk import Chunk
from services.generator.engine.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.model import native
from services.generator.model.attention import attention
from services.generator.model.kv_cache import KVCache
from tests.generator.shape import shape

BLOCK_SIZE = 16
HAS_COMPILER = native.library("paged_attention") is not None
BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        "torch",
        pytest.param(
            "native", marks=pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler is here")
        ),
    ],
)


@dataclass
class Case:
    """A request with `length` known tokens, of which the last `num_new` are computed now."""

    length: int
    num_new: int


def naive(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attend one head's last positions causally; all are [tokens, dim]."""
    scores = queries @ keys.T / math.sqrt(queries.shape[1])
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    offset = len(keys) - len(queries)
    for row in range(len(queries)):
        scores[row, offset + row + 1 :] = -math.inf
        if window is not None:
            scores[row, : max(0, offset + row + 1 - window)] = -math.inf
    return scores.softmax(-1) @ values


@BACKENDS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("heads", [(1, 1, 8), (4, 4, 16), (6, 2, 10), (5, 1, 64), (8, 2, 80)])
@pytest.mark.parametrize(
    ("window", "softcap"),
    [(None, None), (None, 0.7), (1, None), (16, None), (37, 0.7), (129, None)],
)
@pytest.mark.parametrize(
    "cases",
    [
        [Case(1, 1)],
        [Case(15, 1), Case(16, 1), Case(17, 1), Case(400, 1)],
        [Case(130, 130), Case(300, 129), Case(40, 2)],
        [Case(63, 1), Case(63, 1), Case(100, 36), Case(111, 111)],
    ],
)
def test_pages_give_what_contiguous_memory_gives(
    cases: list[Case],
    window: int | None,
    softcap: float | None,
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    tolerance: float,
    backend: str,
) -> None:
    """Odd lengths, scattered blocks, grouped heads, mixed batches: each row attends to its own.

    With a window to the last tokens only, and to capped scores where there is a cap.
    """
    torch.manual_seed(0)
    num_heads, num_kv_heads, dim = heads
    config = shape(
        num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, head_dim=dim,
        attn_logit_softcapping=softcap,
    )  # fmt: skip
    cache = KVCache(config, 64, BLOCK_SIZE, dtype)
    free = torch.randperm(64).tolist()
    chunks, histories = [], {}
    for case in cases:
        request = Request(
            "r", [0] * case.length, SamplingParams(), 0, frozenset(), root_hash(""), 0, 0.0
        )
        request.block_ids = [free.pop() for _ in range(-(-case.length // BLOCK_SIZE))]
        chunk = Chunk(request, case.length - case.num_new, case.num_new)
        chunks.append(chunk)
        histories[id(chunk)] = torch.randn(case.length, config.q_size + 2 * config.kv_size).to(
            dtype
        )
        for position in range(chunk.start):
            block_id = request.block_ids[position // BLOCK_SIZE]
            slot = block_id * BLOCK_SIZE + position % BLOCK_SIZE
            cache.layers[0].slots[slot] = histories[id(chunk)][position, config.q_size :]
    batch = build_batch(chunks, BLOCK_SIZE)
    rows = [histories[id(chunk)][chunk.start :] for chunk in batch.chunks]
    with torch.inference_mode():
        attend = attention(config, window, dtype, backend)
        plan = attend.plan(batch.pages, BLOCK_SIZE)
        out = attend(torch.cat(rows), cache.layers[0], plan).float()

    first = 0
    for chunk in batch.chunks:
        history = histories[id(chunk)].float()
        queries = history[chunk.start :, : config.q_size].view(-1, num_heads, dim)
        keys, values = history[:, config.q_size :].view(-1, 2, num_kv_heads, dim).unbind(1)
        for head in range(num_heads):
            shared = head // (num_heads // num_kv_heads)
            expected = naive(queries[:, head], keys[:, shared], values[:, shared], window, softcap)
            actual = out[first : first + chunk.num_tokens, head * dim : (head + 1) * dim]
            assert (actual - expected).abs().max() < tolerance
        first += chunk.num_tokens


@BACKENDS
@pytest.mark.parametrize("num_new", [1, 40])
def test_blocks_outside_the_window_are_not_read(num_new: int, backend: str) -> None:
    """What lies before the first query's window may hold anything, and is never gathered."""
    config = shape(head_dim=16)
    cache = KVCache(config, 8, BLOCK_SIZE, torch.float32)
    request = Request("r", [0] * 120, SamplingParams(), 0, frozenset(), root_hash(""), 0, 0.0)
    request.block_ids = [3, 1, 7, 5, 2, 0, 4, 6]
    pages = build_batch([Chunk(request, 120 - num_new, num_new)], BLOCK_SIZE).pages
    first_needed = (120 - num_new - 20 + 1) // BLOCK_SIZE
    cache.layers[0].blocks[request.block_ids[:first_needed]] = math.nan
    qkv = torch.randn(num_new, config.q_size + 2 * config.kv_size)
    attend = attention(config, 20, torch.float32, backend)
    assert attend(qkv, cache.layers[0], attend.plan(pages, BLOCK_SIZE)).isfinite().all()


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler is here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decode_attends_alike_whatever_runs_beside_it(dtype: torch.dtype) -> None:
    """Bit for bit: alone, beside longer and shorter contexts, and beside a prompt chunk."""
    torch.manual_seed(1)
    config = shape(num_attention_heads=6, num_key_value_heads=2, head_dim=32)
    attend = attention(config, None, dtype, "native")
    cache = KVCache(config, 40, BLOCK_SIZE, dtype)
    cache.layers[0].slots.normal_()
    lengths = (150, 1, 64, 65, 200, 30)
    requests, first_block = [], 0
    for number, length in enumerate(lengths):
        request = Request(
            str(number), [0] * length, SamplingParams(), 0, frozenset(), root_hash(""), number, 0.0
        )
        num_blocks = -(-length // BLOCK_SIZE)
        request.block_ids = list(range(first_block, first_block + num_blocks))
        first_block += num_blocks
        requests.append(request)
    chunks = [
        Chunk(request, length - 1, 1) for request, length in zip(requests, lengths, strict=True)
    ]
    chunks[-1] = Chunk(requests[-1], 0, 30)
    rows = {
        id(chunk): torch.randn(chunk.num_tokens, config.q_size + 2 * config.kv_size).to(dtype)
        for chunk in chunks
    }

    def run(some: list[Chunk]) -> dict[str, torch.Tensor]:
        batch = build_batch(some, BLOCK_SIZE)
        qkv = torch.cat([rows[id(chunk)] for chunk in batch.chunks])
        out = attend(qkv, cache.layers[0], attend.plan(batch.pages, BLOCK_SIZE))
        parts = out.split([chunk.num_tokens for chunk in batch.chunks])
        return {c.request.request_id: part for c, part in zip(batch.chunks, parts, strict=True)}

    together = run(chunks)
    for chunk in chunks[:-1]:
        name = chunk.request.request_id
        assert torch.equal(run([chunk])[name], together[name])
