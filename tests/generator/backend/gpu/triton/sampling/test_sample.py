"""Tokens drawn on the device against their exact distribution."""

import pytest
import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import sampling as reference_sampling
from services.generator.backend.gpu.triton.sampling.sample import gumbel, sample
from tests.generator.interpreter import IS_GPU

# numpy, behind the interpreter, warns of infinities and of the logarithm of 0
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
DRAWS = 20_000 if IS_GPU else 100


def arguments(rows: int, vocab: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random logits, no filters, seeds and positions that all differ."""
    return {
        "logits": torch.randn(rows, vocab, device=device) * 3,
        "temperature": torch.ones(rows, device=device),
        "top_k": torch.zeros(rows, dtype=torch.int32, device=device),
        "top_p": torch.ones(rows, device=device),
        "min_p": torch.zeros(rows, device=device),
        "seeds": torch.randint(-(2**63), 2**63 - 1, (rows,), device=device),
        "positions": torch.arange(rows, device=device),
    }


@triton.jit
def noise_kernel(p_out, p_seed, p_position, start, size: tl.constexpr):
    first = tl.program_id(0) * size
    b_noise = gumbel(tl.load(p_seed), tl.load(p_position), start + first, size)
    tl.store(p_out + first + tl.arange(0, size), b_noise)


def noise(seed: int, position: int, start: int, size: int, device: torch.device) -> torch.Tensor:
    """Return the noise of `size` tokens from `start` on."""
    out = torch.empty(size, device=device)
    counters = (torch.tensor([number], device=device) for number in (seed, position))
    tile = min(size, 4096)
    noise_kernel[(size // tile,)](out, *counters, start, size=tile)
    return out


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (-5, 7), (2**63 - 1, 100_000)])
def test_the_noise_is_gumbels(seed: int, position: int, device: torch.device) -> None:
    """The largest distance between the distribution functions (Kolmogorov-Smirnov), and tails."""
    size = 2**16
    drawn = noise(seed, position, 0, size, device).double().sort().values
    shares = (-(-drawn).exp()).exp()
    steps = torch.arange(size + 1, device=device).double() / size
    distance = torch.maximum((shares - steps[:-1]).abs().max(), (shares - steps[1:]).abs().max())
    # exceeded once in ten million
    assert distance < 2.9 / size**0.5
    assert drawn.isfinite().all() and 6 < drawn[-1] < 23


def test_the_noise_comes_from_philox(device: torch.device) -> None:
    """Seeds and positions of 64 bits, each token its own word."""
    for seed, position in ((0, 0), (-123_456_789_012, 77), (2**63 - 1, 2**33 + 5)):
        expected = reference_sampling.gumbel(seed, position, 2048)
        actual = noise(seed, position, 0, 2048, device).double().cpu()
        # a share near 1 has few bits left in float32
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_noise_is_a_function_of_seed_position_and_token(device: torch.device) -> None:
    """The tile that a token lies in does not matter; each of the three does."""
    size = 4096
    whole = noise(3, 5, 0, size, device)
    torch.testing.assert_close(noise(3, 5, 64, 32, device), whole[64:96])
    others = [
        *(noise(4, 5, 0, size, device), noise(3, 6, 0, size, device)),
        *(noise(3 + 2**32, 5, 0, size, device), noise(3, 5, size, size, device)),
        *(whole.roll(1), whole.roll(4)),
    ]
    for other in others:
        pair = torch.stack((whole, other)).double()
        # five standard deviations
        assert abs(float(pair.corrcoef()[0, 1])) < 5 / size**0.5


def chi_square_probability(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how likely counts that are at least as far from the expected are."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic.cpu() / 2))


@pytest.mark.parametrize(
    ("rows", "temperature", "top_k", "top_p", "min_p"),
    [
        (DRAWS, 1.3, 0, 1.0, 0.0),
        (DRAWS // 2, 0.8, 0, 1.0, 0.3),
        pytest.param(DRAWS, 0.8, 6, 0.95, 0.01, marks=pytest.mark.gpu),
    ],
)
def test_tokens_come_as_often_as_they_should(
    rows: int, temperature: float, top_k: int, top_p: float, min_p: float, device: torch.device
) -> None:
    """Chi-square over a small vocabulary, a seed for each draw."""
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(1, 16, generator=generator) * 0.6).to(device)
    given = arguments(rows, 16, device)
    given["logits"] = logits.expand(rows, 16)
    given["temperature"].fill_(temperature)
    given["top_k"].fill_(top_k)
    given["top_p"].fill_(top_p)
    given["min_p"].fill_(min_p)
    given["seeds"] = torch.arange(rows, device=device)
    given["positions"].fill_(3)
    counts = sample(**given).bincount(minlength=16).double()
    one = {name: given[name][:1] for name in ("temperature", "top_k", "top_p", "min_p")}
    expected = reference_sampling.distribution(logits, **one)[0] * rows
    possible = expected > 0
    assert not counts[~possible].any()
    assert chi_square_probability(counts[possible], expected[possible]) > 1e-5


def test_the_noise_draws_as_often_as_it_should(device: torch.device) -> None:
    """Chi-square of many draws, each with the noise of other tokens."""
    logits = torch.linspace(-2.0, 2.0, 16, device=device).double()
    drawn = (noise(9, 1, 0, 2**17, device).view(-1, 16) + logits).argmax(1)
    counts = drawn.bincount(minlength=16).double()
    assert chi_square_probability(counts, logits.softmax(0) * len(drawn)) > 1e-5


def test_the_best_with_noise_is_drawn(device: torch.device) -> None:
    """Of what the filters leave, at the row's temperature, seed and position; one row has ties."""
    given = arguments(4, 4100, device)
    given["logits"][1] = (given["logits"][1] > 0).float()
    given["temperature"] = torch.tensor([1.0, 5.0, 2.0, 1.0], device=device)
    given["top_k"][1] = 100
    given["min_p"][2] = 0.01
    filters = {name: given[name] for name in ("temperature", "top_k", "top_p", "min_p")}
    left = reference_sampling.kept(given["logits"], **filters)
    counters = zip(given["seeds"].tolist(), given["positions"].tolist(), strict=True)
    noises = torch.stack([noise(*pair, 0, 8192, device)[:4100] for pair in counters])
    scores = given["logits"] + given["temperature"].unsqueeze(1) * noises
    expected = scores.masked_fill(~left, float("-inf")).argmax(1)
    assert torch.equal(sample(**given), expected)


@DTYPES
@pytest.mark.parametrize("vocab", [1, 63, 111, 4097])
def test_temperature_0_and_top_k_1_take_the_best(
    vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Narrow logits have ties, of which the lowest id wins."""
    given = arguments(3, vocab, device)
    given["logits"] = given["logits"].to(dtype)
    given["temperature"][:2] = 0.0
    given["top_k"][1:] = 1
    tokens = sample(**given)
    assert tokens.dtype == torch.int64
    best = given["logits"].amax(1, keepdim=True)
    assert tokens.tolist() == [int(row.nonzero()[0]) for row in given["logits"] == best]


def test_a_low_temperature_takes_the_best(device: torch.device) -> None:
    """Without overflow."""
    given = arguments(2, 100, device)
    given["temperature"].fill_(1e-6)
    given["top_p"][1] = 0.9
    assert torch.equal(sample(**given), given["logits"].argmax(1))


def test_filtered_tokens_are_not_drawn(device: torch.device) -> None:
    """What is drawn is in the reference's sets."""
    given = arguments(8, 100, device)
    given["temperature"].fill_(3.0)
    given["top_k"][:4] = 5
    given["top_p"][2:6] = 0.7
    given["min_p"][::2] = 0.2
    filters = {name: given[name] for name in ("temperature", "top_k", "top_p", "min_p")}
    left = reference_sampling.kept(given["logits"], **filters)
    assert left.gather(1, sample(**given).unsqueeze(1)).all()


def test_a_row_alone_draws_what_it_draws_in_a_batch(device: torch.device) -> None:
    """In any place, whatever the others ask for."""
    given = arguments(6, 111, device)
    given["temperature"] = torch.tensor([0.0, 1.0, 0.7, 1.0, 2.0, 1.0], device=device)
    given["top_k"][2] = 9
    given["top_p"][3:5] = 0.8
    given["min_p"][4] = 0.02
    together = sample(**given)
    order = torch.tensor([3, 5, 0, 1, 4, 2], device=device)
    assert torch.equal(sample(**{name: t[order] for name, t in given.items()}), together[order])
    alone = [sample(**{name: t[row : row + 1] for name, t in given.items()}) for row in range(6)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_fails(bad: float, device: torch.device) -> None:
    """Greedy, free or filtered; banned tokens are no failure, unless all are."""
    given = arguments(8, 4100, device)
    given["temperature"][[0, 4]] = 0.0
    given["top_k"][[2, 5]] = 5
    given["top_p"][[3, 6]] = 0.5
    given["logits"][:4, 4098] = bad
    given["logits"][4:, :4000] = float("-inf")
    given["logits"][7] = float("-inf")
    tokens = sample(**given).tolist()
    assert tokens[:4] == [-1] * 4 and tokens[7] == -1
    assert all(4000 <= token < 4100 for token in tokens[4:7])


def test_a_long_vocabulary(device: torch.device) -> None:
    """Qwen3's, where rows lie apart."""
    given = arguments(1, 152_000, device)
    given["logits"] = given["logits"].bfloat16()[:, 8:151_944]
    given["min_p"][0] = 0.5
    row = given["logits"][0].double()
    assert row[sample(**given).item()] >= row.max() - 0.70


def test_no_rows(device: torch.device) -> None:
    """Nothing is launched."""
    assert sample(**arguments(0, 64, device)).shape == (0,)


@pytest.mark.parametrize(
    "argument", ["logits", "temperature", "top_k", "top_p", "min_p", "seeds", "positions"]
)
def test_what_is_not_contiguous_is_refused_by_name(argument: str, device: torch.device) -> None:
    """Nothing is copied silently."""
    given = arguments(4, 8, device)
    given[argument] = given[argument].repeat_interleave(2, -1)[..., ::2]
    with pytest.raises(KernelError) as caught:
        sample(**given)
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements."""
    given = arguments(2**15 + 1, 16, device)
    given["logits"] = torch.zeros(2**15 + 1, 2**16, dtype=torch.float16, device=device)
    given["logits"][-1, 65_000] = 100.0
    given["top_k"][-1] = 3
    assert sample(**given)[-1] == 65_000
