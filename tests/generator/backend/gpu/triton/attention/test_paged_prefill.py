"""Attention over the paged cache for chunks and decodes, against float64."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from services.generator.backend.gpu.triton.attention.paged_prefill import (
    paged_prefill,
    prefill_launch,
)
from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import attention as reference
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
BLOCK = 16
# (length, queries): decodes beside the rest of a prompt, a whole one, and a few drafts
MIXED = [(111, 50), (17, 1), (1, 1), (16, 16), (63, 4), (100, 1)]


@dataclass
class Batch:
    """Arguments of a call; whatever no query may see is NaN, or far too large in integers."""

    sequences: list[tuple[int, int]]
    dtype: torch.dtype
    device: torch.device
    size: int = 64
    kv_heads: int = 1
    group: int = 4
    cache_dtype: torch.dtype | None = None
    padding: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        heads, device = self.kv_heads * self.group, self.device
        queries = torch.tensor([count for _, count in self.sequences], dtype=torch.int32)
        self.starts = torch.cat([queries.new_zeros(1), queries.cumsum(0).int()]).to(device)
        self.lengths = torch.tensor([length for length, _ in self.sequences]).int().to(device)
        tokens = int(queries.sum()) + self.padding
        # a token's heads are part of a wider row, as a projection gives them
        row = torch.randn(tokens, heads + 2, self.size, device=device).to(self.dtype)
        self.q = row[:, 1:-1]
        blocks = [-(-length // BLOCK) for length, _ in self.sequences]
        # block 0 is nobody's
        order = torch.randperm(sum(blocks)) + 1
        self.table = torch.zeros(len(blocks), max(blocks, default=0) + 2, dtype=torch.int32)
        # keys of all heads, then values
        self.cache = torch.full((sum(blocks) + 1, BLOCK, 2, self.kv_heads, self.size), float("nan"))
        stored = self.cache_dtype or self.dtype
        if stored == torch.int8:
            self.cache.fill_(127)
        window = self.options.get("window") or 1 << 30
        for i_s, (length, count) in enumerate(self.sequences):
            own, order = order[: blocks[i_s]], order[blocks[i_s] :]
            seen = torch.arange(max(length - count + 1 - window, 0), length)
            content = torch.randn(len(seen), 2, self.kv_heads, self.size)
            if stored == torch.int8:
                content = (content * 40).round().clamp(-127, 127)
            self.cache[own[seen // BLOCK], seen % BLOCK] = content
            self.table[i_s, seen // BLOCK] = own[seen // BLOCK].int()
        self.cache, self.table = self.cache.to(stored).to(device), self.table.to(device)
        if self.cache_dtype is not None:
            for name in ("k_scale", "v_scale"):
                self.options[name] = torch.rand(self.kv_heads, device=device) * 0.02 + 0.01

    def arguments(self) -> tuple[Any, ...]:
        keys, values = self.cache.unbind(2)
        return (self.q, keys, values, self.table, self.starts, self.lengths, self.size**-0.5)

    def check(self) -> None:
        """Assert that the kernel agrees with the reference."""
        out = paged_prefill(*self.arguments(), **self.options)
        assert out.dtype == self.dtype and out.is_contiguous()
        assert_near("out", out, reference.paged_prefill(*self.arguments(), **self.options))


@DTYPES
def test_whole_prompts(dtype: torch.dtype, device: torch.device) -> None:
    """Lengths that are no powers of two, and of a block and one more and one less."""
    Batch([(n, n) for n in (1, 63, 100, 111, BLOCK - 1, BLOCK, BLOCK + 1)], dtype, device).check()


@DTYPES
@pytest.mark.parametrize("group", [1, 4, 5, 8])
def test_chunks_beside_decodes(group: int, dtype: torch.dtype, device: torch.device) -> None:
    """Chunks start in the middle of a sequence; groups need not divide a tile."""
    Batch(MIXED, dtype, device, kv_heads=2, group=group).check()


@DTYPES
@pytest.mark.parametrize("size", [80, 96, 128, 256])
def test_head_sizes(size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Also those that are no powers of two."""
    Batch([(70, 40), (33, 1)], dtype, device, size=size, kv_heads=2).check()


@DTYPES
@pytest.mark.parametrize("queries", [1, 3, 16])
def test_tiles_of_each_height(queries: int, dtype: torch.dtype, device: torch.device) -> None:
    """Decodes and drafts alone are given low tiles."""
    Batch([(100, queries), (17, queries), (65, queries)], dtype, device).check()


@DTYPES
@pytest.mark.parametrize("window", [1, 20, 64, 1000])
def test_a_window_hides_what_is_older(
    window: int, dtype: torch.dtype, device: torch.device
) -> None:
    """It includes the token itself; blocks before it may be somebody else's by now."""
    Batch([(111, 60), (100, 30), (100, 1)], dtype, device, options={"window": window}).check()


@DTYPES
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")
def test_scores_may_be_capped(dtype: torch.dtype, device: torch.device) -> None:
    """Also scores that are far above the cap."""
    batch = Batch([(63, 20), (17, 1)], dtype, device, options={"soft_cap": 5.0})
    batch.check()
    batch.q *= 100
    batch.check()


@DTYPES
def test_sinks_take_their_share(dtype: torch.dtype, device: torch.device) -> None:
    """One head's sink is far above its scores, another has none; windows may hide whole tiles."""
    sinks = torch.tensor([0.5, -1.0, 9.0, -torch.inf], device=device)
    Batch([(111, 40), (17, 1)], dtype, device, options={"sinks": sinks}).check()
    options = {"sinks": sinks, "window": 20, "soft_cap": 3.0}
    Batch([(111, 40), (17, 1)], dtype, device, options=options).check()


@DTYPES
@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.int8])
def test_a_cache_of_bytes_is_scaled_by_head(
    stored: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    """Each head's keys and values have scales of their own."""
    is_old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0)
    if is_old and stored == torch.float8_e4m3fn:
        pytest.skip("float8 needs sm_90")
    Batch([(100, 30), (17, 1)], dtype, device, kv_heads=2, cache_dtype=stored).check()


def test_weights_worked_out_by_hand(device: torch.device) -> None:
    """Scores 1, 3, 0, 2 over four values."""
    q, cache = torch.zeros(1, 1, 64), torch.zeros(2, 1, 4, 1, 64)
    q[0, 0, 0] = 1
    cache[0, 0, :, 0, 0] = torch.tensor([1.0, 3, 0, 2])
    cache[1, 0, :, 0, :2] = torch.tensor([[1.0, 0], [0, 2], [-1, 1], [3, 1]])
    q, cache = q.to(device), cache.to(device)
    table, starts, lengths = (
        torch.tensor(x, dtype=torch.int32, device=device) for x in ([[0]], [0, 1], [4])
    )
    out = paged_prefill(q, cache[0], cache[1], table, starts, lengths, 1.0)
    torch.testing.assert_close(out[0, 0, :2].cpu(), torch.tensor([0.76573417, 1.55676994]))
    assert not out[0, 0, 2:].any()


@pytest.mark.parametrize("sequences", [[], [(5, 0), (9, 0)]])
@pytest.mark.parametrize("padding", [0, 3])
def test_empty_batches(
    sequences: list[tuple[int, int]], padding: int, device: torch.device
) -> None:
    """No sequences, or none with queries, and perhaps padding."""
    Batch(sequences, torch.float32, device, padding=padding).check()


@pytest.mark.parametrize("padding", [1, 70])
def test_padding_comes_out_as_zeros(padding: int, device: torch.device) -> None:
    """Rows behind the last sequence; sequences without queries lie between others."""
    sequences = [(33, 9), (0, 0), (17, 1), (20, 0), (16, 16), (0, 0)]
    batch = Batch(sequences, torch.float16, device, padding=padding)
    batch.check()
    assert not paged_prefill(*batch.arguments())[-padding:].any()


def test_a_result_does_not_depend_on_the_others(device: torch.device) -> None:
    """NaN in one sequence stays there."""
    batch = Batch(MIXED, torch.float32, device)
    expected = paged_prefill(*batch.arguments())
    batch.cache[batch.table[0, 0].long()] = torch.nan
    out = paged_prefill(*batch.arguments())
    first = MIXED[0][1]
    assert out[:first].isnan().all()
    torch.testing.assert_close(out[first:], expected[first:])


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same values with the last dimension's elements two apart."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("q", wide),
        ("q", lambda q: q[:, :, :63]),
        ("q", lambda q: q[:, :7]),
        ("q", lambda q: q.double()),
        ("q", lambda q: q.repeat(1, 32, 1)),
        ("k_cache", wide),
        ("k_cache", lambda k: k[..., :32]),
        ("k_cache", lambda k: k.half()),
        ("v_cache", wide),
        ("v_cache", lambda v: v[:, :, :1]),
        ("v_cache", lambda v: v.half()),
        ("block_table", wide),
        ("block_table", lambda table: table.long()),
        ("block_table", lambda table: table[:1]),
        ("query_starts", wide),
        ("query_starts", lambda starts: starts[1:]),
        ("lengths", wide),
        ("lengths", lambda lengths: lengths.long()),
        ("scale", lambda _: -1.0),
        ("window", lambda _: 0),
        ("soft_cap", lambda _: 0.0),
        ("sinks", lambda _: torch.zeros(7)),
        ("k_scale", lambda _: torch.ones(2)),
        ("v_scale", lambda _: torch.ones(2)),
    ],
)
def test_what_the_kernel_cannot_read_is_refused_by_name(
    argument: str, change: Any, device: torch.device
) -> None:
    """Layouts, shapes, dtypes and values."""
    batch = Batch([(5, 3), (9, 1)], torch.float32, device, kv_heads=2)
    names = ("q", "k_cache", "v_cache", "block_table", "query_starts", "lengths", "scale")
    arguments = dict(zip(names, batch.arguments(), strict=True))
    arguments[argument] = change(arguments.get(argument))
    with pytest.raises(KernelError) as caught:
        paged_prefill(**arguments)
    assert caught.value.argument == argument


def test_a_cache_of_bytes_needs_scales(device: torch.device) -> None:
    """Both of them."""
    batch = Batch([(5, 3)], torch.float32, device, cache_dtype=torch.int8)
    for name in ("k_scale", "v_scale"):
        options = {key: value for key, value in batch.options.items() if key != name}
        with pytest.raises(KernelError) as caught:
            paged_prefill(*batch.arguments(), **options)
        assert caught.value.argument == name


@pytest.mark.parametrize("is_sm90", [False, True])
def test_tiles_follow_from_shapes(is_sm90: bool) -> None:
    """Low ones for few rows, none lower than a token's heads."""
    half, byte = torch.float16, torch.int8
    heights = [
        prefill_launch(half, half, 128, 4, rows, is_sm90).rows for rows in (4, 16, 17, 64, 65)
    ]
    assert heights == [16, 16, 64, 64, 128]
    heights = [prefill_launch(half, half, 256, 2, rows, is_sm90).rows for rows in (16, 64, 65)]
    assert heights == [16, 64, 128 if is_sm90 else 64]
    assert prefill_launch(half, half, 64, 71, 71, is_sm90).rows == 128
    keys = [prefill_launch(half, stored, 128, 4, 4096, is_sm90).keys for stored in (byte, half)]
    assert keys == [32, 128 if is_sm90 else 64]


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("length", [4096, 32768])
def test_long_contexts(length: int, dtype: torch.dtype, device: torch.device) -> None:
    """The end of a long prompt beside a decode of the same length."""
    Batch([(length, 200), (length, 1)], dtype, device, kv_heads=2).check()


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last blocks of a cache of more than 2**31 elements."""
    size, blocks = 128, 2**20 + 8
    cache = torch.full((blocks, BLOCK, 1, size), torch.nan, dtype=torch.float16, device=device)
    cache[-4:] = torch.randn(4, BLOCK, 1, size, device=device)
    q = torch.randn(20, 4, size, device=device).half()
    table = torch.arange(blocks - 4, blocks, dtype=torch.int32, device=device)[None]
    starts, lengths = (
        torch.tensor(x, dtype=torch.int32, device=device) for x in ([0, 20], [4 * BLOCK])
    )
    arguments = (q, cache, cache, table, starts, lengths, size**-0.5)
    assert_near("out", paged_prefill(*arguments), reference.paged_prefill(*arguments))
