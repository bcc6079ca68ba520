"""Low-rank adapters against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.linear import lora
from services.generator.backend.gpu.triton.linear.lora import (
    lora_expand_add,
    lora_shrink,
    sort_by_adapter,
)
from services.generator.backend.gpu.triton.reference import moe as reference_moe
from tests.generator.backend.gpu.triton.compare import FLOATS, Guarded, assert_near, summable

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
TOKENS = pytest.mark.parametrize("tokens", [0, 1, 5, 63])
ADAPTERS = 3


def some_ids(tokens: int, device: torch.device) -> torch.Tensor:
    """Adapters in any order, the last without rows, and rows without an adapter."""
    return torch.randint(-1, ADAPTERS - 1, (tokens,), dtype=torch.int32, device=device)


def shrink_inputs(
    tokens: int, width: int, rank: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `x` and `a`."""
    x = torch.randn(tokens, width, device=device).to(dtype)
    return x, torch.randn(ADAPTERS, rank, width, device=device).to(dtype)


def summable_inputs(
    tokens: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `x` and `a` of rank 8, whose products are the same to the last bit in any order."""
    x = summable(tokens, width, device=device).to(dtype)
    return x, summable(ADAPTERS, 8, width, device=device).to(dtype)


def expand_inputs(
    tokens: int, width: int, rank: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `y`, what was shrunk, `b` and the scales."""
    y = torch.randn(tokens, width, device=device).to(dtype)
    b = torch.randn(ADAPTERS, width, rank, device=device).to(dtype)
    shrunk = torch.randn(tokens, rank, device=device)
    return y, shrunk, b, torch.rand(ADAPTERS, device=device) + 0.5


@DTYPES
@TOKENS
def test_a_row_is_shrunk_by_its_adapter(
    tokens: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Rows in any order, more than one chunk of K and not a whole number of them."""
    x, a = shrink_inputs(tokens, 600, 16, dtype, device)
    ids = some_ids(tokens, device)
    out = lora_shrink(x, a, ids)
    assert out.dtype == torch.float32
    assert_near("out", out, reference_moe.lora_shrink(x, a, ids))
    assert not out[ids < 0].any()


@DTYPES
@pytest.mark.parametrize(
    ("rank", "width"),
    [(8, 1), (8, 512), (16, 63), (16, 511), (32, 100), (32, 513), (64, 111), (64, 1100)],
)
def test_ranks_and_widths(rank: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Each rank, and widths around a chunk."""
    x, a = shrink_inputs(2, width, rank, dtype, device)
    ids = torch.tensor([1, 1], dtype=torch.int32, device=device)
    assert_near("out", lora_shrink(x, a, ids), reference_moe.lora_shrink(x, a, ids))


@pytest.mark.parametrize("dtype", FLOATS)
def test_many_tokens_are_not_split_and_have_the_same_bits(
    dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program sums the chunks in the order in which the second pass does."""
    x, a = summable_inputs(5, 1300, dtype, device)
    ids = some_ids(5, device)
    split = lora_shrink(x, a, ids)
    monkeypatch.setattr(lora, "SPLIT_TOKENS", 0)
    assert torch.equal(lora_shrink(x, a, ids), split)


@DTYPES
@TOKENS
def test_what_was_shrunk_is_added(tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    """In place; nothing else is touched, nor are rows without an adapter."""
    before, shrunk, b, scale = expand_inputs(tokens, 150, 16, dtype, device)
    ids = some_ids(tokens, device)
    y = Guarded(before)
    lora_expand_add(y.tensor, shrunk, b, ids, scale)
    y.check()
    assert torch.equal(y.tensor[ids < 0], before[ids < 0])
    expected = reference_moe.lora_expand_add(before, shrunk, b, ids, scale)
    assert_near("y", y.tensor, expected)


@DTYPES
@pytest.mark.parametrize(
    ("rank", "width"), [(8, 1), (8, 128), (16, 63), (32, 100), (32, 127), (64, 111), (64, 129)]
)
def test_each_rank_is_added(
    rank: int, width: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Widths around a tile."""
    before, shrunk, b, scale = expand_inputs(2, width, rank, dtype, device)
    ids = torch.tensor([2, 0], dtype=torch.int32, device=device)
    y = before.clone()
    lora_expand_add(y, shrunk, b, ids, scale)
    assert_near("y", y, reference_moe.lora_expand_add(before, shrunk, b, ids, scale))


def test_ids_that_are_no_adapter_leave_their_rows(device: torch.device) -> None:
    """Negative or too large, as -1."""
    ids = torch.tensor([-1, 3, 2**31 - 1, -(2**31), 2], dtype=torch.int32, device=device)
    x, a = shrink_inputs(5, 40, 8, torch.float32, device)
    assert not lora_shrink(x, a, ids)[:4].any()
    before, shrunk, b, scale = expand_inputs(5, 40, 8, torch.float32, device)
    y = before.clone()
    lora_expand_add(y, shrunk, b, ids, scale)
    assert torch.equal(y[:4], before[:4])
    assert not torch.equal(y[4], before[4])


@pytest.mark.parametrize("adapter", [0, 2, -1])
def test_one_adapter_may_have_all_rows(adapter: int, device: torch.device) -> None:
    """The others have none."""
    ids = torch.full((20,), adapter, dtype=torch.int32, device=device)
    x, a = shrink_inputs(20, 40, 8, torch.float32, device)
    assert_near("out", lora_shrink(x, a, ids), reference_moe.lora_shrink(x, a, ids))


def test_rows_may_be_sorted_before(device: torch.device) -> None:
    """Once for all layers of a step."""
    ids = some_ids(9, device)
    rows = sort_by_adapter(ids, ADAPTERS)
    x, a = summable_inputs(9, 40, torch.float32, device)
    assert torch.equal(lora_shrink(x, a, ids, rows), lora_shrink(x, a, ids))
    before, _, _, scale = expand_inputs(9, 40, 8, torch.float32, device)
    shrunk, b = summable(9, 8, device=device), summable(ADAPTERS, 40, 8, device=device)
    y, same = before.clone(), before.clone()
    lora_expand_add(y, shrunk, b, ids, scale, rows)
    lora_expand_add(same, shrunk, b, ids, scale)
    assert torch.equal(y, same)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, device: torch.device) -> None:
    """The same bits alone and among others."""
    x, a = summable_inputs(21, 600, dtype, device)
    before, _, _, scale = expand_inputs(21, 40, 8, dtype, device)
    b = summable(ADAPTERS, 40, 8, device=device).to(dtype)
    ids = torch.ones(21, dtype=torch.int32, device=device)
    shrunk, y = lora_shrink(x, a, ids), before.clone()
    lora_expand_add(y, shrunk, b, ids, scale)
    for row in (0, 17, 20):
        own = slice(row, row + 1)
        alone, y_alone = lora_shrink(x[own], a, ids[own]), before[own].clone()
        lora_expand_add(y_alone, alone, b, ids[own], scale)
        assert torch.equal(alone, shrunk[own])
        assert torch.equal(y_alone, y[own])


def test_columns_of_a_wider_tensor(device: torch.device) -> None:
    """As where queries, keys and values are one product; the other columns are not touched."""
    ids = some_ids(5, device)
    wide_x = torch.randn(5, 100, device=device)
    _, a = shrink_inputs(5, 40, 8, torch.float32, device)
    x = wide_x[:, 30:70]
    assert_near("out", lora_shrink(x, a, ids), reference_moe.lora_shrink(x, a, ids))
    _, shrunk, b, scale = expand_inputs(5, 40, 8, torch.float32, device)
    before, wide = wide_x.clone(), wide_x.clone()
    lora_expand_add(wide[:, 30:70], shrunk, b, ids, scale)
    before[:, 30:70] = reference_moe.lora_expand_add(x, shrunk, b, ids, scale).float()
    assert_near("y", wide, before)
    assert torch.equal(wide[:, :30], before[:, :30])
    assert torch.equal(wide[:, 70:], before[:, 70:])


def test_what_is_not_taken_is_refused_by_name(device: torch.device) -> None:
    """Shapes, dtypes, ranks and layouts."""
    x, a = shrink_inputs(6, 40, 8, torch.float32, device)
    y, shrunk, b, scale = expand_inputs(6, 40, 8, torch.float32, device)
    ids = some_ids(6, device)
    narrow = torch.randn(ADAPTERS, 12, 40, device=device)
    apart = torch.randn(40, 6, device=device).T
    rows = sort_by_adapter(ids, ADAPTERS + 1)
    refused = [
        ("x", lambda: lora_shrink(apart, a, ids)),
        ("x", lambda: lora_shrink(x.double(), a.double(), ids)),
        ("a", lambda: lora_shrink(x, narrow, ids)),
        ("a", lambda: lora_shrink(x, a.half(), ids)),
        ("a", lambda: lora_shrink(x, b.mT, ids)),
        ("a", lambda: lora_shrink(x[:, :39], a, ids)),
        ("adapter_ids", lambda: lora_shrink(x, a, ids.long())),
        ("adapter_ids", lambda: lora_shrink(x, a, ids[:5])),
        ("adapter_ids", lambda: lora_shrink(x, a, torch.stack([ids, ids], 1)[:, 0])),
        ("rows", lambda: lora_shrink(x, a, ids, rows)),
        ("y", lambda: lora_expand_add(apart, shrunk, b, ids, scale)),
        ("b", lambda: lora_expand_add(y, shrunk, narrow.mT, ids, scale)),
        ("b", lambda: lora_expand_add(y, shrunk, b.half(), ids, scale)),
        ("b", lambda: lora_expand_add(y, shrunk, a.mT, ids, scale)),
        ("shrunk", lambda: lora_expand_add(y, shrunk.half(), b, ids, scale)),
        ("shrunk", lambda: lora_expand_add(y, shrunk[:, :7], b, ids, scale)),
        ("scale", lambda: lora_expand_add(y, shrunk, b, ids, scale[:2])),
        ("scale", lambda: lora_expand_add(y, shrunk, b, ids, scale.double())),
    ]
    for argument, call in refused:
        with pytest.raises(KernelError) as caught:
            call()
        assert caught.value.argument == argument


@pytest.mark.gpu
def test_nothing_waits_for_the_device(device: torch.device) -> None:
    """Nor does anything that torch does in between."""
    x, a = shrink_inputs(6, 1024, 8, torch.float16, device)
    y, _, b, scale = expand_inputs(6, 40, 8, torch.float16, device)
    ids = some_ids(6, device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        lora_expand_add(y, lora_shrink(x, a, ids), b, ids, scale)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 64, 4096])
@pytest.mark.parametrize("rank", [16, 64])
def test_a_layer_of_an_8b_model(tokens: int, rank: int, device: torch.device) -> None:
    """4,096 by 4,096."""
    x, a = shrink_inputs(tokens, 4096, rank, torch.bfloat16, device)
    y, _, b, scale = expand_inputs(tokens, 4096, rank, torch.bfloat16, device)
    ids = some_ids(tokens, device)
    shrunk = lora_shrink(x, a, ids)
    assert_near("shrunk", shrunk, reference_moe.lora_shrink(x, a, ids))
    expected = reference_moe.lora_expand_add(y, shrunk, b, ids, scale)
    lora_expand_add(y, shrunk, b, ids, scale)
    assert_near("y", y, expected)


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements."""
    rows, width = 2**17 + 1, 2**14
    x = torch.ones(rows, width, dtype=torch.float16, device=device)
    x[-1] = torch.randn(width, device=device)
    a = torch.randn(1, 8, width, dtype=torch.float16, device=device)
    b = torch.randn(1, width, 8, dtype=torch.float16, device=device)
    ids = torch.full((rows,), -1, dtype=torch.int32, device=device)
    ids[-1] = 0
    scale = torch.ones(1, device=device)
    shrunk = lora_shrink(x, a, ids)
    assert_near("shrunk", shrunk[-1:], reference_moe.lora_shrink(x[-1:], a, ids[-1:]))
    shrunk /= 100
    expected = reference_moe.lora_expand_add(x[-1:], shrunk[-1:], b, ids[-1:], scale)
    lora_expand_add(x, shrunk, b, ids, scale)
    assert_near("y", x[-1:], expected)
    assert bool((x[:-1] == 1).all())
