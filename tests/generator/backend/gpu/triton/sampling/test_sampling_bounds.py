"""What min_p, top_k and top_p leave, against a sort in float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.reference import sampling as reference_sampling
from services.generator.backend.gpu.triton.sampling.sampling_bounds import (
    bounds_tile,
    sampling_bounds,
)
from services.generator.backend.gpu.triton.sampling.top_k_top_p import KEPT

# numpy, behind the interpreter, warns of infinities and of the logarithm of 0
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# temperature, top_k, top_p, min_p
FILTERS = [
    (1.0, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 40, 0.8, 0.0),
    (0.8, 0, 0.9, 0.0),
    (0.01, 0, 0.95, 0.0),
    (1.0, 0, 1e-6, 0.0),
    (1.5, 0, 1.0, 0.1),
    (1.0, 7, 1.0, 0.05),
    (2.0, 20, 0.6, 0.02),
    (1.0, 10**6, 1.0, 1.0),
    (1.0, 0, 0.0, 0.0),
    (1.0, 0, 0.0, 1.0),
]


def kept(logits: torch.Tensor, filters: list[tuple[float, int, float, float]]) -> torch.Tensor:
    """Return bool [S, V] from the kernel's bounds."""
    low, high, tie_end = sampling_bounds(logits, *columns(filters, logits.device))
    ids = torch.arange(logits.shape[1], device=logits.device)
    wide = logits.float()
    in_ties = (wide >= low.unsqueeze(1)) & (ids < tie_end.unsqueeze(1))
    return in_ties | (wide >= high.unsqueeze(1))


def columns(
    filters: list[tuple[float, int, float, float]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return temperature, top_k, top_p and min_p, one value per row."""
    temperature, top_k, top_p, min_p = ([row[i] for row in filters] for i in range(4))
    return (
        torch.tensor(temperature, device=device),
        torch.tensor(top_k, dtype=torch.int32, device=device),
        torch.tensor(top_p, device=device),
        torch.tensor(min_p, device=device),
    )


def compare(logits: torch.Tensor, filters: list[tuple[float, int, float, float]]) -> None:
    """Assert the reference's set, but for a token whose share is at the bound to 1e-5."""
    actual = kept(logits, filters)
    temperature, top_k, top_p, min_p = columns(filters, logits.device)
    near = 1e-5
    narrow = reference_sampling.kept(
        *(logits, temperature, top_k),
        top_p.where(top_p >= 1.0, top_p * (1 - near)),
        min_p.where(min_p >= 1.0, min_p * (1 + near)),
    )
    wide = reference_sampling.kept(
        logits, temperature, top_k, top_p * (1 + near), min_p * (1 - near)
    )
    assert actual.any(1).all()
    assert not (narrow & ~actual).any(), "a token is missing"
    assert not (actual & ~wide).any(), "a token is too much"


@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [(1, torch.float32), (63, torch.bfloat16), (100, torch.float16), (111, torch.float32)],
)
def test_the_filters_leave_what_a_sort_would(
    vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Alone and combined, a share of a share."""
    logits = (torch.randn(len(FILTERS), vocab, device=device) * 4).to(dtype)
    compare(logits, FILTERS)


@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [(4095, torch.float32), (4096, torch.bfloat16), (4097, torch.float16)],
)
def test_rows_of_several_tiles(vocab: int, dtype: torch.dtype, device: torch.device) -> None:
    """Near the size of a tile."""
    filters = [(1.0, 50, 1.0, 0.0), (0.9, 0, 0.9, 0.0), (1.2, 200, 0.7, 0.001)]
    compare((torch.randn(3, vocab, device=device) * 3).to(dtype), filters)


def test_largest_logits_a_tile_apart_are_all_found(device: torch.device) -> None:
    """More than are kept of those whose ids differ by multiples of a tile, and up to as many."""
    tile, _ = bounds_tile(2**20)
    logits = torch.randn(1, (KEPT.value + 2) * tile, device=device)
    logits[:, 77::tile] += 9.0
    ks = [KEPT.value - 1, KEPT.value, KEPT.value + 1, KEPT.value + 2, 20]
    filters = [*((1.0, k, 1.0, 0.0) for k in ks), (1.0, 0, 0.9, 0.0), (2.0, 9, 0.99, 0.0)]
    compare(logits.expand(len(filters), -1), filters)


def test_a_long_vocabulary(device: torch.device) -> None:
    """Qwen3's, where rows lie apart."""
    logits = torch.randn(1, 152_000, device=device).bfloat16()[:, 8:151_944] * 2
    compare(logits, [(0.6, 20, 1.0, 0.0)])


def test_ties_fall_to_the_lower_ids(device: torch.device) -> None:
    """As many as top_k or top_p ask for, across tiles too."""
    logits = torch.full((4, 4200), -50.0, device=device)
    logits[:, [9, 30, 4100, 4150]] = 2.0
    logits[:3, 17] = 3.0
    filters = [(1.0, 3, 1.0, 0.0), (1.0, 4, 0.8, 0.0), (1.0, 2, 0.9, 0.5), (1.0, 0, 0.7, 0.0)]
    left = [row.nonzero().flatten().tolist() for row in kept(logits, filters)]
    # in the second, 3 of the four ties weigh 1/e each beside 1, and the goal is reached by two
    assert left == [[9, 17, 30], [9, 17, 30], [17], [9, 30, 4100]]


def test_many_ties_at_every_cut(device: torch.device) -> None:
    """Small whole numbers as logits, and filters that cut through them."""
    logits = torch.randint(-2, 3, (6, 111), device=device).float()
    # shares that no number of equal weights makes up
    filters = [(1.3, k, p, 0.03) for k, p in ((3, 0.61), (30, 0.83), (70, 0.97), (0, 0.71))]
    compare(logits, [*filters, (1.0, 50, 0.43, 0.0), (1.0, 100, 1.0, 0.05)])


def test_a_bound_of_min_p_lies_between_the_dtypes_values(device: torch.device) -> None:
    """One step of bfloat16 below it is dropped, one above it is kept, whatever the sign."""
    logits = torch.full((2, 64), -60.0, dtype=torch.bfloat16, device=device)
    logits[0, [3, 4, 5]] = torch.tensor([2.0, 4.0, 2.015625], device=device).bfloat16()
    logits[1, [3, 4, 5]] = torch.tensor([-2.015625, 0.0, -2.0], device=device).bfloat16()
    left = kept(logits, [(1.0, 0, 0.999, 0.1364), (1.0, 9, 0.999, 0.1343)])
    assert [row.nonzero().flatten().tolist() for row in left] == [[4, 5], [4, 5]]


@pytest.mark.parametrize("value", [-0.0, -2.25])
def test_a_row_of_equals(value: float, device: torch.device) -> None:
    """Zeros of either sign are one value."""
    logits = torch.full((3, 100), value, device=device)
    logits[:, 1::2] = abs(value) if value == 0 else value
    filters = [(1.0, 4, 1.0, 0.0), (1.0, 0, 0.255, 0.0), (1.0, 0, 1.0, 1.0)]
    left = kept(logits, filters)
    assert [row.nonzero().flatten().tolist() for row in left[:2]] == [[*range(4)], [*range(26)]]
    assert left[2].all()


def test_banned_tokens_do_not_count(device: torch.device) -> None:
    """More may be asked for than there are."""
    logits = torch.full((3, 64), float("-inf"), device=device)
    logits[:, [5, 50]] = torch.tensor([1.0, 2.0], device=device)
    filters = [(1.0, 1, 1.0, 0.0), (1.0, 0, 0.99, 0.0), (1.0, 9, 0.6, 0.0)]
    left = [row.nonzero().flatten().tolist() for row in kept(logits, filters)]
    assert left == [[50], [5, 50], [50]]


def test_greedy_rows_are_not_cut(device: torch.device) -> None:
    """Nothing is searched for where nothing is drawn."""
    logits = torch.randn(1, 64, device=device)
    low, high, tie_end = sampling_bounds(logits, *columns([(0.0, 3, 0.5, 0.5)], device))
    assert (low.item(), high.item(), tie_end.item()) == (float("-inf"), float("inf"), 64)
