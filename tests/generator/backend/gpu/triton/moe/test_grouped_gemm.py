"""Mixtures of experts against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.moe.grouped_gemm import combine, grouped_gemm, row_tile
from services.generator.backend.gpu.triton.moe.moe_sort import SortedRows, sort_by_expert
from services.generator.backend.gpu.triton.reference import moe as reference_moe
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near, summable

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
TOKENS = pytest.mark.parametrize("tokens", [0, 1, 5, 63])
TILE = 16


def choose(tokens: int, choices: int, num_experts: int, device: torch.device) -> torch.Tensor:
    """Different experts for each token."""
    return torch.rand(tokens, num_experts, device=device).argsort(-1)[:, :choices].contiguous()


def check_sorted(rows: SortedRows, topk_ids: torch.Tensor) -> None:
    """Each pair once, in a tile of its expert, those of one expert in order."""
    flat = topk_ids.flatten().cpu()
    flat = torch.where((flat >= 0) & (flat < rows.num_experts), flat, -1)
    pairs, experts = rows.pair_ids.cpu(), rows.expert_ids.cpu()
    assert len(pairs) <= rows.num_pairs + rows.num_experts * (rows.tile - 1)
    assert len(experts) == -(-len(pairs) // rows.tile)
    assert sorted(pairs[pairs >= 0].tolist()) == list(range(rows.num_pairs))
    assert bool((pairs >= -1).all())
    of_pair = experts.repeat_interleave(rows.tile)[: len(pairs)]
    assert torch.equal(of_pair[pairs >= 0].long(), flat[pairs[pairs >= 0].long()].long())
    for expert in range(-1, rows.num_experts):
        own = pairs[(of_pair == expert) & (pairs >= 0)]
        assert bool((own.diff() > 0).all())


@TOKENS
@pytest.mark.parametrize("tile", [16, 32])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_a_tile_of_pairs_has_one_expert(
    tokens: int, tile: int, index: torch.dtype, device: torch.device
) -> None:
    """Any number of tokens, none as well."""
    topk_ids = choose(tokens, 2, 5, device).to(index)
    check_sorted(sort_by_expert(topk_ids, 5, tile), topk_ids)


@pytest.mark.parametrize("tokens", [127, 128, 129, 2500])
def test_more_pairs_than_are_counted_at_once(tokens: int, device: torch.device) -> None:
    """Pairs are counted 256 at a time, and 4,096 where there are many."""
    topk_ids = choose(tokens, 2, 3, device)
    check_sorted(sort_by_expert(topk_ids, 3, TILE), topk_ids)


@pytest.mark.parametrize("expert", [0, 2, 3])
def test_one_expert_may_have_all(expert: int, device: torch.device) -> None:
    """The first, one between and the last; the others have no tile."""
    topk_ids = torch.full((20, 1), expert, device=device)
    rows = sort_by_expert(topk_ids, 4, TILE)
    check_sorted(rows, topk_ids)
    assert set(rows.expert_ids.tolist()) <= {expert, -1}


def test_ids_that_are_no_expert_are_kept_apart(device: torch.device) -> None:
    """Negative, too large, and too large for 32 bits."""
    topk_ids = torch.tensor([[0, -1], [3, 2], [2**32, 1], [-(2**40), 0]], device=device)
    rows = sort_by_expert(topk_ids, 3, TILE)
    check_sorted(rows, topk_ids)
    x, weights = torch.randn(4, 8, device=device), torch.randn(3, 16, 8, device=device)
    out = grouped_gemm(x, weights, rows)
    assert torch.equal(out[[1, 2, 4, 6]], torch.zeros(4, 16, device=device))
    assert_near("out", out, reference_moe.grouped_gemm(x, weights, topk_ids))


@pytest.mark.parametrize("tokens", [1, 40])
def test_no_pair_may_have_an_expert(tokens: int, device: torch.device) -> None:
    """As where all rows are padding."""
    topk_ids = torch.full((tokens, 2), -1, dtype=torch.int32, device=device)
    rows = sort_by_expert(topk_ids, 2, TILE)
    check_sorted(rows, topk_ids)
    x, weights = torch.randn(tokens, 8, device=device), torch.randn(2, 16, 8, device=device)
    assert not grouped_gemm(x, weights, rows).any()


@DTYPES
@TOKENS
def test_a_row_is_multiplied_by_its_experts(
    tokens: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Widths that no tile divides; more row tiles than one group, and experts without tokens."""
    x = torch.randn(tokens, 200, device=device).to(dtype)
    weights = torch.randn(5, 72, 200, device=device).to(dtype)
    topk_ids = choose(tokens, 2, 4, device)  # the last has none
    out = grouped_gemm(x, weights, sort_by_expert(topk_ids, 5, TILE))
    assert out.dtype == dtype
    assert_near("out", out, reference_moe.grouped_gemm(x, weights, topk_ids))


@DTYPES
@TOKENS
def test_each_pair_may_have_a_row(tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    """As in the second product."""
    x = torch.randn(tokens * 2, 40, device=device).to(dtype)
    weights = torch.randn(3, 63, 40, device=device).to(dtype)
    topk_ids = choose(tokens, 2, 3, device)
    out = grouped_gemm(x, weights, sort_by_expert(topk_ids, 3, TILE))
    assert_near("out", out, reference_moe.grouped_gemm(x, weights, topk_ids))


@DTYPES
@pytest.mark.parametrize("tile", [16, 32, 64, 128])
def test_row_tiles(tile: int, dtype: torch.dtype, device: torch.device) -> None:
    """All that are offered, with one row more than a tile for one expert."""
    x = torch.randn(tile + 1, 100, device=device).to(dtype)
    weights = torch.randn(2, 20, 100, device=device).to(dtype)
    topk_ids = torch.ones(tile + 1, 1, dtype=torch.int32, device=device)
    out = grouped_gemm(x, weights, sort_by_expert(topk_ids, 2, tile))
    assert_near("out", out, reference_moe.grouped_gemm(x, weights, topk_ids))


def test_row_tile_follows_from_an_experts_share() -> None:
    """Within 16 to 128."""
    tiles = [row_tile(pairs, 8) for pairs in (0, 1, 128, 136, 500, 1024, 10**6)]
    assert tiles == [16, 16, 16, 32, 64, 128, 128]


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_token_does_not_depend_on_the_others(dtype: torch.dtype, device: torch.device) -> None:
    """The same bits alone and among others, wherever it lies in a tile."""
    x = summable(21, 136, device=device).to(dtype)
    weights = summable(3, 40, 136, device=device).to(dtype)
    topk_ids = choose(21, 2, 3, device)
    among = grouped_gemm(x, weights, sort_by_expert(topk_ids, 3, TILE))
    for token in (0, 13, 20):
        rows = sort_by_expert(topk_ids[token : token + 1], 3, TILE)
        alone = grouped_gemm(x[token : token + 1], weights, rows)
        assert torch.equal(alone, among[2 * token : 2 * token + 2])


def test_rows_and_experts_may_lie_apart(device: torch.device) -> None:
    """Columns of wider tensors are read in place."""
    x = torch.randn(5, 100, device=device)[:, 10:50]
    weights = torch.randn(3, 30, 90, device=device)[:, 4:24, 30:70]
    topk_ids = choose(5, 2, 3, device)
    out = grouped_gemm(x, weights, sort_by_expert(topk_ids, 3, TILE))
    assert_near("out", out, reference_moe.grouped_gemm(x, weights, topk_ids))


@DTYPES
@pytest.mark.parametrize(("tokens", "width"), [(0, 64), (1, 63), (3, 1030)])
@pytest.mark.parametrize("choices", [1, 3, 8])
def test_a_tokens_rows_are_summed_by_their_shares(
    tokens: int, width: int, choices: int, dtype: torch.dtype, device: torch.device
) -> None:
    """The sum is rounded once, to the dtype of the rows."""
    outputs = torch.randn(tokens * choices, width, device=device).to(dtype)
    topk_weights = torch.rand(tokens, choices, device=device)
    out = combine(outputs, topk_weights)
    assert out.dtype == dtype
    assert_near("out", out, reference_moe.combine(outputs, topk_weights))


def test_a_mixture(device: torch.device) -> None:
    """Both products and the sum, against each token by itself."""
    x, topk_ids = torch.randn(5, 24, device=device), choose(5, 2, 4, device)
    first = torch.randn(4, 32, 24, device=device)
    second = torch.randn(4, 24, 32, device=device)
    topk_weights = torch.rand(5, 2, device=device)
    rows = sort_by_expert(topk_ids, 4, TILE)
    out = combine(grouped_gemm(grouped_gemm(x, first, rows).relu(), second, rows), topk_weights)
    for token, experts in enumerate(topk_ids.tolist()):
        hidden = [(first[expert].double() @ x[token].double()).relu() for expert in experts]
        parts = [second[expert].double() @ row for expert, row in zip(experts, hidden, strict=True)]
        expected = sum(share * part for share, part in zip(topk_weights[token], parts, strict=True))
        assert_near("out", out[token], torch.as_tensor(expected))


def test_what_is_not_taken_is_refused_by_name(device: torch.device) -> None:
    """Shapes, dtypes and layouts."""
    topk_ids = torch.zeros(6, 2, dtype=torch.int32, device=device)
    rows = sort_by_expert(topk_ids, 3, TILE)
    x, weights = torch.randn(6, 8, device=device), torch.randn(3, 4, 8, device=device)
    outputs, topk_weights = torch.randn(12, 4, device=device), torch.rand(6, 2, device=device)
    refused = [
        ("topk_ids", lambda: sort_by_expert(topk_ids.flatten(), 3, TILE)),
        ("topk_ids", lambda: sort_by_expert(topk_ids.float(), 3, TILE)),
        ("topk_ids", lambda: sort_by_expert(topk_ids.T, 3, TILE)),
        ("num_experts", lambda: sort_by_expert(topk_ids, 0, TILE)),
        ("tile", lambda: sort_by_expert(topk_ids, 3, 48)),
        ("x", lambda: grouped_gemm(x[:5], weights, rows)),
        ("x", lambda: grouped_gemm(x.double(), weights.double(), rows)),
        ("x", lambda: grouped_gemm(torch.randn(8, 6, device=device).T, weights, rows)),
        ("weights", lambda: grouped_gemm(x, weights[:2], rows)),
        ("weights", lambda: grouped_gemm(x, weights.half(), rows)),
        ("weights", lambda: grouped_gemm(x, torch.randn(3, 8, 4, device=device).mT, rows)),
        ("topk_weights", lambda: combine(outputs, topk_weights.half())),
        ("topk_weights", lambda: combine(outputs, torch.rand(2, 6, device=device).T)),
        ("outputs", lambda: combine(outputs[:8], topk_weights)),
        ("outputs", lambda: combine(torch.randn(4, 12, device=device).T, topk_weights)),
    ]
    for argument, call in refused:
        with pytest.raises(KernelError) as caught:
            call()
        assert caught.value.argument == argument


@pytest.mark.gpu
def test_nothing_waits_for_the_device(device: torch.device) -> None:
    """Nor does anything that torch does in between."""
    x, topk_ids = torch.randn(5, 64, device=device), choose(5, 2, 4, device)
    weights, topk_weights = torch.randn(4, 64, 64, device=device), torch.rand(5, 2, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = sort_by_expert(topk_ids, 4, TILE)
        combine(grouped_gemm(grouped_gemm(x, weights, rows), weights, rows), topk_weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 100, 4096])
def test_qwen3_30b_a3b(tokens: int, device: torch.device) -> None:
    """The first product of its 128 experts, 8 to a token, with the row tile for the batch."""
    x = torch.randn(tokens, 2048, device=device, dtype=torch.bfloat16)
    weights = torch.randn(128, 1536, 2048, device=device, dtype=torch.bfloat16)
    topk_ids = choose(tokens, 8, 128, device)
    rows = sort_by_expert(topk_ids, 128, row_tile(8 * tokens, 128))
    check_sorted(rows, topk_ids)
    out = grouped_gemm(x, weights, rows)
    few = slice(max(0, tokens - 16), tokens)
    expected = reference_moe.grouped_gemm(x[few], weights, topk_ids[few])
    assert_near("out", out.view(tokens, 8, 1536)[few].flatten(0, 1), expected)


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements of weights."""
    x = torch.randn(3, 8192, device=device, dtype=torch.float16)
    weights = torch.zeros(33, 8192, 8192, device=device, dtype=torch.float16)
    weights[-1] = torch.randn(8192, 8192, device=device)
    topk_ids = torch.full((3, 1), 32, device=device)
    out = grouped_gemm(x, weights, sort_by_expert(topk_ids, 33, TILE))
    assert_near("out", out, x.double() @ weights[-1].double().T)
