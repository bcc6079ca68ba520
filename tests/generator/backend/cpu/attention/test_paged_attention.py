"""Paged attention against a loop over requests and heads."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch

from services.generator.backend.batch import build_batch
from services.generator.backend.cpu.attention.paged_attention import attention
from services.generator.backend.cpu.native import compiler
from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.model.block_tables import BlockTables
from services.generator.model.kv_cache import KVCache
from tests.generator.shape import shape

BLOCK_SIZE = 16
# of rows, and of keys and values
FLOAT32 = (torch.float32, torch.float32)
HALF_CACHE = (torch.float32, torch.float16)
BFLOAT16 = (torch.bfloat16, torch.bfloat16)
Dtypes = tuple[torch.dtype, torch.dtype]
DTYPES = pytest.mark.parametrize("dtypes", [FLOAT32, HALF_CACHE, BFLOAT16], ids=str)
HAS_COMPILER = compiler.library("paged_attention") is not None
KERNELS = pytest.mark.parametrize(
    "kernels",
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


@KERNELS
@pytest.mark.parametrize(
    ("dtypes", "tolerance"), [(FLOAT32, 1e-5), (HALF_CACHE, 4e-3), (BFLOAT16, 0.05)], ids=str
)
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
    dtypes: Dtypes,
    tolerance: float,
    kernels: str,
) -> None:
    """Odd lengths, scattered blocks, grouped heads, mixed batches: each row attends to its own.

    With a window to the last tokens only, and to capped scores where there is a cap.
    """
    torch.manual_seed(0)
    dtype, kept = dtypes
    num_heads, num_kv_heads, dim = heads
    config = shape(
        num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, head_dim=dim,
        attn_logit_softcapping=softcap,
    )  # fmt: skip
    cache = KVCache(config, 64, BLOCK_SIZE, kept)
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
    batch = build_batch(chunks, BLOCK_SIZE)
    rows = [histories[id(chunk)][chunk.start :] for chunk in batch.chunks]
    with torch.inference_mode():
        attend = attention(config, window, dtype, kernels)
        for chunk in chunks:
            if chunk.start:  # what came before, whose own results are of no interest
                earlier = build_batch([Chunk(chunk.request, 0, chunk.start)], BLOCK_SIZE)
                past = histories[id(chunk)][: chunk.start]
                attend(past, cache.layers[0], attend.plan(earlier.tables, BLOCK_SIZE))
        plan = attend.plan(batch.tables, BLOCK_SIZE)
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


@KERNELS
@pytest.mark.parametrize("num_new", [1, 40])
def test_blocks_outside_the_window_are_not_read(num_new: int, kernels: str) -> None:
    """What lies before the first query's window may hold anything, and is never gathered."""
    config = shape(head_dim=16)
    cache = KVCache(config, 8, BLOCK_SIZE, torch.float32)
    request = Request("r", [0] * 120, SamplingParams(), 0, frozenset(), root_hash(""), 0, 0.0)
    request.block_ids = [3, 1, 7, 5, 2, 0, 4, 6]
    tables = build_batch([Chunk(request, 120 - num_new, num_new)], BLOCK_SIZE).tables
    first_needed = (120 - num_new - 20 + 1) // BLOCK_SIZE
    cache.layers[0].blocks[request.block_ids[:first_needed]] = math.nan
    qkv = torch.randn(num_new, config.q_size + 2 * config.kv_size)
    attend = attention(config, 20, torch.float32, kernels)
    assert attend(qkv, cache.layers[0], attend.plan(tables, BLOCK_SIZE)).isfinite().all()


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler is here")
@DTYPES
def test_a_decode_attends_alike_whatever_runs_beside_it(dtypes: Dtypes) -> None:
    """Bit for bit: alone, beside longer and shorter contexts, and beside a prompt chunk."""
    torch.manual_seed(1)
    dtype, kept = dtypes
    config = shape(num_attention_heads=6, num_key_value_heads=2, head_dim=32)
    attend = attention(config, None, dtype, "native")
    cache = KVCache(config, 40, BLOCK_SIZE, kept)
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
        out = attend(qkv, cache.layers[0], attend.plan(batch.tables, BLOCK_SIZE))
        parts = out.split([chunk.num_tokens for chunk in batch.chunks])
        return {c.request.request_id: part for c, part in zip(batch.chunks, parts, strict=True)}

    together = run(chunks)
    for chunk in chunks[:-1]:
        name = chunk.request.request_id
        assert torch.equal(run([chunk])[name], together[name])


@pytest.fixture
def num_threads() -> Iterator[None]:
    """Restore torch's number of threads afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Prompts:
    """Sequences of random rows in scattered blocks, attended to by the kernel in any pieces."""

    def __init__(
        self,
        lengths: Sequence[int],
        heads: tuple[int, int, int],
        dtypes: Dtypes,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        torch.manual_seed(2)
        dtype, kept = dtypes
        num_heads, num_kv_heads, dim = heads
        self.config = shape(
            num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, head_dim=dim,
            attn_logit_softcapping=softcap,
        )  # fmt: skip
        width = self.config.q_size + 2 * self.config.kv_size
        self.rows = [torch.randn(length, width).to(dtype) for length in lengths]
        widths = [-(-length // BLOCK_SIZE) for length in lengths]
        blocks = torch.randperm(sum(widths))
        self._block_ids = [part.tolist() for part in blocks.split(widths)]
        self._attend = attention(self.config, window, dtype, "native")
        self.cache = KVCache(self.config, len(blocks), BLOCK_SIZE, kept).layers[0]
        self.cache.slots.fill_(math.nan)

    def slots(self, sequence: int, first: int, end: int) -> list[int]:
        """Return where positions `first` to `end` of a sequence are kept."""
        ids = self._block_ids[sequence]
        return [ids[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(first, end)]

    def step(self, pieces: Sequence[tuple[int, int, int]]) -> list[torch.Tensor]:
        """Write and attend with (sequence, first, end) in one batch; return each piece's rows."""
        tables = BlockTables(
            torch.tensor([slot for piece in pieces for slot in self.slots(*piece)]),
            [end - first for _, first, end in pieces],
            [end for _, _, end in pieces],
            [self._block_ids[sequence][: -(-end // BLOCK_SIZE)] for sequence, _, end in pieces],
        )
        qkv = torch.cat([self.rows[sequence][first:end] for sequence, first, end in pieces])
        out = self._attend(qkv, self.cache, self._attend.plan(tables, BLOCK_SIZE))
        return list(out.split(tables.num_queries))

    def in_chunks(self, sequence: int, size: int) -> torch.Tensor:
        """Return the sequence's rows, computed in chunks of this size."""
        length = len(self.rows[sequence])
        parts = [
            self.step([(sequence, first, min(first + size, length))])[0]
            for first in range(0, length, size)
        ]
        return torch.cat(parts)


NEEDS_COMPILER = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler is here")
SHAPES = pytest.mark.parametrize("heads", [(9, 3, 64), (16, 8, 128), (3, 3, 16), (5, 1, 80)])
VARIANTS = pytest.mark.parametrize(
    ("window", "softcap"), [(None, None), (None, 0.7), (1, None), (37, None), (100, 0.7)]
)


@NEEDS_COMPILER
@DTYPES
@SHAPES
@VARIANTS
def test_a_row_is_the_same_however_its_prompt_is_cut(
    window: int | None, softcap: float | None, heads: tuple[int, int, int], dtypes: Dtypes
) -> None:
    """Bit for bit: token by token, in chunks of 7, 16 and 64, and whole; later rows are NaN."""
    prompts = Prompts([200], heads, dtypes, window, softcap)
    whole = prompts.in_chunks(0, 200)
    assert whole.isfinite().all()
    for size in (1, 7, 16, 64):
        prompts.cache.slots.fill_(math.nan)
        assert torch.equal(prompts.in_chunks(0, size), whole)


@NEEDS_COMPILER
@DTYPES
@SHAPES
def test_a_chunk_attends_alike_whatever_runs_beside_it(
    heads: tuple[int, int, int], dtypes: Dtypes
) -> None:
    """Bit for bit: decodes, whole prompts and later chunks, alone and in one batch."""
    prompts = Prompts([150, 65, 130, 100, 1], heads, dtypes)
    for sequence, end in ((0, 149), (1, 64), (3, 41)):
        prompts.step([(sequence, 0, end)])
    pieces = [(0, 149, 150), (1, 64, 65), (4, 0, 1), (2, 0, 130), (3, 41, 100)]
    together = prompts.step(pieces)
    for piece, out in zip(pieces, together, strict=True):
        assert torch.equal(prompts.step([piece])[0], out)


@NEEDS_COMPILER
@DTYPES
def test_threads_do_not_change_a_row(dtypes: Dtypes, num_threads: None) -> None:
    """Bit for bit with one thread and with two."""
    prompts = Prompts([300, 120], (9, 3, 64), dtypes)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(torch.cat(prompts.step([(0, 0, 300), (1, 0, 120)])))
    assert torch.equal(*results)


@NEEDS_COMPILER
@DTYPES
def test_what_comes_later_may_hold_anything(dtypes: Dtypes) -> None:
    """A NaN in a chunk's last token reaches none of the rows before it."""
    prompts = Prompts([78], (9, 3, 64), dtypes)
    expected = prompts.in_chunks(0, 78)
    prompts.rows[0][77] = math.nan
    assert torch.equal(prompts.in_chunks(0, 78)[:77], expected[:77])


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("dtypes", "tolerance"), [(FLOAT32, 2e-6), (HALF_CACHE, 1e-3), (BFLOAT16, 8e-3)], ids=str
)
@SHAPES
@VARIANTS
def test_a_long_prompt_is_accurate(
    window: int | None,
    softcap: float | None,
    heads: tuple[int, int, int],
    dtypes: Dtypes,
    tolerance: float,
) -> None:
    """Within a few roundings of float64, in proportion to the largest value."""
    prompts = Prompts([333], heads, dtypes, window, softcap)
    out = prompts.in_chunks(0, 333).double()
    num_heads, num_kv_heads, dim = heads
    rows = prompts.rows[0].double()
    queries = rows[:, : prompts.config.q_size].view(-1, num_heads, dim)
    keys, values = rows[:, prompts.config.q_size :].view(-1, 2, num_kv_heads, dim).unbind(1)
    for head in range(num_heads):
        shared = head // (num_heads // num_kv_heads)
        expected = naive(queries[:, head], keys[:, shared], values[:, shared], window, softcap)
        error = (out[:, head * dim : (head + 1) * dim] - expected).abs().max()
        assert error < tolerance * values.abs().max()


@KERNELS
def test_keys_beyond_the_range_of_a_half_cache_become_its_end(kernels: str) -> None:
    """No infinity arises, whose product with zero would be NaN."""
    config = shape(num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    cache = KVCache(config, 1, BLOCK_SIZE, torch.float16)
    qkv = torch.full((2, config.q_size + 2 * config.kv_size), 1e6)
    qkv[:, : config.q_size] = 0
    attend = attention(config, None, torch.float32, kernels)
    tables = BlockTables(torch.tensor([0, 1]), [2], [2], [[0]])
    attend(qkv, cache.layers[0], attend.plan(tables, BLOCK_SIZE))
    decode = BlockTables(torch.tensor([2]), [1], [3], [[0]])
    out = attend(qkv[:1], cache.layers[0], attend.plan(decode, BLOCK_SIZE))
    assert torch.equal(out, torch.full_like(out, 65504.0))
