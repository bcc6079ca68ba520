"""Decode attention over pages against float64, in one split of many tiles and in many splits."""

from typing import Any, NamedTuple

import pytest
import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.attention import checks
from services.generator.backend.gpu.triton.attention import paged_decode as op
from services.generator.backend.gpu.triton.attention.paged_decode import decode_launch, paged_decode
from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import attention as reference_attention
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
QUANTISED = [torch.int8, torch.float8_e4m3fn]
# one split of all tiles, or a tile to each
SPLITS = pytest.mark.parametrize("most_splits", [1, 64])


class Pages(NamedTuple):
    """Arguments of `paged_decode` from the caches on."""

    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_table: torch.Tensor
    lengths: torch.Tensor


def pages(
    lengths: tuple[int, ...],
    kv_heads: int,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    block_size: int = 16,
) -> Pages:
    """Random tokens in blocks of no order, keys and values in one row; NaN where there is none."""
    needed = [-(-length // block_size) for length in lengths]
    order = (torch.randperm(sum(needed)) + 1).split(needed)
    # block 0 holds no token, and the table names it where it names no other
    table = torch.zeros(len(lengths), max(needed, default=0), dtype=torch.int32)
    nothing = 127.0 if dtype == torch.int8 else torch.nan
    rows = torch.full(((sum(needed) + 1) * block_size, 2, kv_heads, size), nothing)
    for i, (length, blocks) in enumerate(zip(lengths, order, strict=True)):
        table[i, : len(blocks)] = blocks
        at = torch.arange(length)
        slots = blocks[at // block_size] * block_size + at % block_size
        rows[slots] = torch.randn(length, 2, kv_heads, size)
        if dtype == torch.int8:
            rows[slots] = (rows[slots] * 40).round().clamp(-127, 127)
    cache = rows.to(dtype).to(device).view(-1, block_size, 2, kv_heads, size)
    counts = torch.tensor(lengths, dtype=torch.int32, device=device)
    return Pages(cache[:, :, 0], cache[:, :, 1], table.to(device), counts)


def queries(
    sequences: int, heads: int, size: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return queries as a part of wider rows."""
    return torch.randn(sequences, heads + 2, size, device=device).to(dtype)[:, :heads]


def check(q: torch.Tensor, cached: Pages, **options: Any) -> torch.Tensor:
    """Assert that the kernel agrees with its reference, and return what it gave."""
    scale = options.pop("scale", q.shape[-1] ** -0.5)
    out = paged_decode(q, *cached, scale, **options)
    assert out.dtype == q.dtype
    assert_near("out", out, reference_attention.paged_decode(q, *cached, scale, **options))
    return out


@pytest.fixture
def most_splits() -> int:
    """As many as are ever launched."""
    return 64


@pytest.fixture(autouse=True)
def split(most_splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences are split in this many parts at most."""
    monkeypatch.setattr(op, "MAX_SPLITS", most_splits)


@DTYPES
@SPLITS
@pytest.mark.parametrize("group", [1, 4, 5, 8])
def test_a_query_is_answered_from_its_sequence(
    group: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Sequences of unequal lengths, and as many query heads to each KV head."""
    kv_heads = 1 if group > 4 else 2
    cached = pages((1, 63, 100, 111), kv_heads, 64, dtype, device)
    check(queries(4, kv_heads * group, 64, dtype, device), cached)


@DTYPES
@pytest.mark.parametrize("size", [80, 96, 128, 256])
def test_heads_may_have_any_size(size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Powers of two and others."""
    cached = pages((70,), 1, size, dtype, device)
    check(queries(1, 2, size, dtype, device), cached)


@pytest.mark.parametrize("block_size", [1, 10, 16, 128])
def test_blocks_may_have_any_size(block_size: int, device: torch.device) -> None:
    """Lengths of a block, of one token more and less."""
    lengths = (max(block_size - 1, 1), block_size, block_size + 1)
    cached = pages(lengths, 1, 64, torch.float32, device, block_size)
    check(queries(3, 2, 64, torch.float32, device), cached)


def test_caches_may_be_strided_each_in_its_way(device: torch.device) -> None:
    """Keys by head before token, values in rows wider than they are."""
    cached = pages((20, 33), 2, 64, torch.float32, device)
    keys = cached.k_cache.transpose(1, 2).contiguous().transpose(1, 2)
    values = torch.nn.functional.pad(cached.v_cache, (8, 24, 1, 2), value=torch.nan)
    apart = cached._replace(k_cache=keys, v_cache=values[:, :, 1:-2, 8:-24])
    check(queries(2, 4, 64, torch.float32, device), apart)


def test_many_query_heads_may_share_one(device: torch.device) -> None:
    """More than the 16 rows that a tile has at least."""
    cached = pages((40,), 1, 64, torch.float32, device)
    check(queries(1, 20, 64, torch.float32, device), cached)


@SPLITS
@pytest.mark.parametrize("window", [1, 5, 64, 100])
def test_a_query_sees_a_window(window: int, device: torch.device) -> None:
    """The last tokens, its own included; blocks before them may be gone."""
    lengths = (3, 100, 150)
    cached = pages(lengths, 1, 64, torch.float32, device)
    q = queries(3, 2, 64, torch.float32, device)
    expected = reference_attention.paged_decode(q, *cached, 0.1, window=window)
    for i, length in enumerate(lengths):
        cached.block_table[i, : max(0, length - window) // 16] = 0
    assert_near("out", paged_decode(q, *cached, 0.1, window=window), expected)


@DTYPES
@SPLITS
def test_scores_may_be_capped(dtype: torch.dtype, device: torch.device) -> None:
    """Of both signs, from far below the cap to far beyond it."""
    cached = pages((100,), 1, 64, dtype, device)
    check(queries(1, 2, 64, dtype, device), cached, scale=2.0, soft_cap=5.0)
    check(queries(1, 2, 64, dtype, device), cached, soft_cap=50.0)


@SPLITS
def test_sinks_take_weight(device: torch.device) -> None:
    """A head's own, from next to nothing to nearly all."""
    cached = pages((0, 1, 100), 1, 64, torch.float32, device)
    sinks = torch.tensor([-100.0, 0.5, 3.0, 90.0], device=device)
    out = check(queries(3, 4, 64, torch.float32, device), cached, sinks=sinks)
    assert bool((out[0] == 0).all())


@DTYPES
@SPLITS
@pytest.mark.parametrize("stored", QUANTISED)
def test_caches_may_be_of_eight_bits(
    stored: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    """Each KV head has its scale, for keys and for values."""
    if device.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs sm_90")
    cached = pages((17, 100), 2, 64, stored, device)
    size = 1 / 40 if stored == torch.int8 else 1.0
    scales = {
        "k_scale": size * torch.tensor([0.8, 1.7], device=device),
        "v_scale": size * torch.tensor([3.1, 0.6], device=device),
    }
    check(queries(2, 6, 64, dtype, device), cached, **scales)


@SPLITS
def test_all_options_together(device: torch.device) -> None:
    """Window, cap, sinks and a quantised cache."""
    cached = pages((20, 140), 2, 80, torch.int8, device)
    scales = torch.tensor([0.02, 0.04], device=device)
    options = {"window": 70, "soft_cap": 4.0, "k_scale": scales, "v_scale": scales.flip(0)}
    sinks = torch.randn(4, device=device)
    check(queries(2, 4, 80, torch.float32, device), cached, sinks=sinks, **options)


@SPLITS
def test_a_sequence_without_tokens_gives_zeros(device: torch.device) -> None:
    """Beside one with tokens, and where no sequence has any."""
    out = check(
        queries(2, 2, 64, torch.float32, device), pages((0, 9), 1, 64, torch.float32, device)
    )
    assert bool((out[0] == 0).all())
    out = check(queries(1, 2, 64, torch.float32, device), pages((0,), 1, 64, torch.float32, device))
    assert bool((out == 0).all())


def test_no_sequences_give_no_rows(device: torch.device) -> None:
    """Nothing is launched."""
    cached = pages((), 1, 64, torch.float32, device)
    assert check(queries(0, 4, 64, torch.float32, device), cached).shape == (0, 4, 64)


@SPLITS
def test_golden_values(device: torch.device) -> None:
    """Scores 1, 3 | 0, 2 in two tiles: the running sum and the weighted values, as on paper.

    A window of four over the end of one tile and the beginning of the next puts the boundary
    behind the second; a sink as large as the largest score tells the sum: it adds 1.
    """
    tile = decode_launch(4, 64, 1).keys
    cached = pages((tile + 2,), 1, 64, torch.float32, device)
    scores, values = [1.0, 3.0, 0.0, 2.0], [[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [3.0, 1.0]]
    for i in range(4):
        token = tile - 2 + i
        place = int(cached.block_table[0, token // 16]), token % 16, 0
        cached.k_cache[place] = torch.eye(64, device=device)[0] * scores[i]
        cached.v_cache[place] = torch.tensor(values[i] + [0.0] * 62, device=device)
    q = torch.eye(64, device=device)[None, :1]
    out = paged_decode(q, *cached, 1.0, window=4)[0, 0]
    with_sink = paged_decode(q, *cached, 1.0, window=4, sinks=torch.full((1,), 3.0, device=device))
    total = 1 / (out[:2] / with_sink[0, 0, :2] - 1)
    near = {"rtol": 0.0, "atol": 2e-6}
    expected = torch.tensor([0.76573417, 1.55676994], device=device)
    torch.testing.assert_close(out[:2], expected, **near)
    torch.testing.assert_close(total, torch.full((2,), 1.55300179, device=device), **near)
    expected = torch.tensor([1.18918654, 2.41766651], device=device)
    torch.testing.assert_close(out[:2] * total, expected, **near)
    assert bool((out[2:] == 0).all())


@pytest.mark.parametrize(
    ("sequences", "kv_heads", "tiles", "splits"),
    [
        (1, 8, 512, 64),  # one long sequence
        (1, 8, 1, 1),  # one tile is not split
        (1, 8, 3, 4),
        (4, 8, 512, 16),  # 512 programs for 132 multiprocessors
        (256, 8, 16, 1),  # the batch is enough
        (256, 8, 512, 8),  # 4,096 tokens at most, of 64 to a tile
        (1, 8, 0, 1),
    ],
)
def test_splits_keep_a_gpu_busy(sequences: int, kv_heads: int, tiles: int, splits: int) -> None:
    """A power of two, by what is known before the launch."""
    assert op.num_splits(op.busy_splits(sequences, kv_heads, 132), tiles) == splits


def test_a_short_sequence_in_a_wide_table_is_split(device: torch.device) -> None:
    """Splits divide a sequence's own tokens, and the last may hold fewer or none."""
    short = pages((100,), 1, 64, torch.float32, device)
    table = torch.nn.functional.pad(short.block_table, (0, 30))
    check(queries(1, 2, 64, torch.float32, device), short._replace(block_table=table))


@triton.jit
def split_size_kernel(p_lengths, p_sizes, tile: tl.constexpr, min_tiles: tl.constexpr):
    i_s = tl.program_id(0)
    length = tl.load(p_lengths + i_s)
    _, _, size = op.split_range(length, length, 64, 1, tile, min_tiles)
    tl.store(p_sizes + i_s, size)


def test_a_short_sequence_is_not_split_for_nothing(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch that keeps the GPU busy, and in a table for long ones, which are split."""
    monkeypatch.setattr(op, "PROGRAMS_PER_SM", 0)
    tile, size = decode_launch(4, 64, 2).keys, 64
    cached = pages((5 * tile, (op.MIN_SPLIT_TILES + 2) * tile), 1, size, torch.float32, device)
    blocks = 4 * op.MAX_SPLIT_TILES * tile // 16
    table = torch.zeros(2, blocks, dtype=torch.int32, device=device)
    table[:, : cached.block_table.shape[1]] = cached.block_table
    check(queries(2, 2, size, torch.float32, device), cached._replace(block_table=table))
    sizes = torch.empty(2, dtype=torch.int32, device=device)
    split_size_kernel[(2,)](cached.lengths, sizes, tile, op.MIN_SPLIT_TILES)
    assert sizes.tolist() == [5 * tile, (op.MIN_SPLIT_TILES + 2) * tile // 2]


def apart(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same elements, and the last dimension not contiguous."""
    return tensor.repeat_interleave(2, -1)[..., ::2]


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("q", apart),
        ("q", lambda it: it.double()),
        ("k_cache", apart),
        ("k_cache", lambda it: it.half()),
        ("v_cache", apart),
        ("v_cache", lambda it: it[:, :8]),
        ("block_table", lambda it: it.long()),
        ("block_table", lambda it: it[:1]),
        ("block_table", apart),
        ("lengths", lambda it: it.long()),
        ("lengths", apart),
        ("scale", lambda it: 0.0),
        ("window", lambda it: 0),
        ("soft_cap", lambda it: -1.0),
        ("sinks", lambda it: torch.zeros(3)),
        ("k_scale", lambda it: torch.ones(2)),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    argument: str, change: Any, device: torch.device
) -> None:
    """Nothing is copied or cast silently."""
    cached = pages((40, 50), 2, 64, torch.float32, device)
    arguments: dict[str, Any] = {
        "q": torch.randn(2, 4, 64, device=device),
        **cached._asdict(),
        "scale": 0.1,
    }
    arguments[argument] = change(arguments.get(argument))
    with pytest.raises(KernelError) as caught:
        paged_decode(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize("stored", QUANTISED)
def test_a_quantised_cache_needs_its_scales(stored: torch.dtype, device: torch.device) -> None:
    """They are not taken to be 1."""
    cached = pages((4,), 1, 64, stored, device)
    with pytest.raises(KernelError, match="v_scale"):
        paged_decode(
            torch.randn(1, 1, 64, device=device),
            *(*cached, 0.1),
            k_scale=torch.ones(1, device=device),
        )


def test_eight_bit_floats_need_a_gpu_that_has_them(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute capability 9.0, and the message names the cache."""

    def refuse(feature: str, device: torch.device, least: tuple[int, int]) -> None:
        assert least == (9, 0)
        raise KernelError(feature, "is refused")

    monkeypatch.setattr(checks, "require_capability", refuse)
    cached = pages((4,), 1, 64, torch.float8_e4m3fn, device)
    scales = torch.ones(1, device=device)
    with pytest.raises(KernelError, match="k_cache"):
        paged_decode(torch.randn(1, 1, 64, device=device), *cached, 0.1, None, None, None, scales)


def test_the_reference_is_torchs_attention(device: torch.device) -> None:
    """Of chunks, the last tokens of their sequences, and of rows that belong to none."""
    cached = pages((20, 33), 2, 16, torch.float32, device)
    q = torch.randn(10, 6, 16, device=device)
    starts = torch.tensor([0, 5, 8], device=device)
    k_cache, v_cache, table, lengths = cached
    out = reference_attention.paged_prefill(q, k_cache, v_cache, table, starts, lengths, 0.3)
    for i, (first, count, length) in enumerate(((0, 5, 20), (5, 3, 33))):
        blocks = cached.block_table[i].long()
        keys, values = (
            it[blocks].flatten(0, 1)[:length].repeat_interleave(3, 1).transpose(0, 1).double()
            for it in (cached.k_cache, cached.v_cache)
        )
        chunk = q[first : first + count].transpose(0, 1).double()
        mask = torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)
        expected = torch.nn.functional.scaled_dot_product_attention(
            chunk, keys, values, mask, scale=0.3
        )
        torch.testing.assert_close(out[first : first + count], expected.transpose(0, 1))
    assert bool((out[8:] == 0).all())


@pytest.mark.gpu
@SPLITS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_sequences(dtype: torch.dtype, device: torch.device) -> None:
    """Thousands of tokens, beside a short one."""
    cached = pages((4096, 32768, 1), 2, 128, dtype, device)
    check(queries(3, 8, 128, dtype, device), cached)
    check(queries(3, 8, 128, dtype, device), cached, window=4000)


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last blocks of a cache of more than 2**31 elements."""
    blocks = 2**31 // (2 * 16 * 128) + 8
    cache = torch.empty(blocks, 2, 16, 1, 128, dtype=torch.float16, device=device)
    cache[-8:] = torch.randn(8, 2, 16, 1, 128, device=device)
    table = torch.arange(blocks - 8, blocks, dtype=torch.int32, device=device)[None]
    lengths = torch.tensor([120], dtype=torch.int32, device=device)
    cached = Pages(cache[:, 0], cache[:, 1], table, lengths)
    check(queries(1, 4, 128, torch.float16, device), cached)
