"""What the engine draws over a real model: the same distribution alone and among others."""

import itertools
import random
from pathlib import Path

import pytest
import torch

from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine
from tests.generator.backend.sampling.test_sampler import chi_square_limit
from tests.generator.tiny import EOS, VOCAB

PROMPT = [5, 17, 40, 8, 61]
DRAWS = 2000
NUM_TOKENS = 2


class Draws:
    """Counts the tokens at each position of outputs that follow PROMPT."""

    def __init__(self, checkpoint: Path) -> None:
        self._engine = load_engine(
            EngineConfig(checkpoint, max_num_seqs=16, kv_cache_bytes=2**22, num_threads=1)
        )
        self._names = itertools.count()

    def add(self, seed: int) -> str:
        params = SamplingParams(NUM_TOKENS, temperature=1.0, seed=seed, bad_token_ids=(EOS,))
        return self._add(PROMPT, params)

    def add_neighbour(self, rng: random.Random) -> None:
        """Add a request of any other kind."""
        params = SamplingParams(
            rng.randint(1, 6),
            temperature=rng.choice([0.0, 0.5, 1.0, 2.0]),
            top_k=rng.choice([0, 5]),
            top_p=rng.choice([1.0, 0.8]),
            repetition_penalty=rng.choice([1.0, 1.3]),
            seed=rng.getrandbits(32),
        )
        self._add(rng.choices(range(VOCAB), k=rng.randint(1, 40)), params)

    def run(self, names: set[str]) -> torch.Tensor:
        """Step until idle; return counts [NUM_TOKENS, VOCAB] of the named requests' tokens."""
        counts = torch.zeros(NUM_TOKENS, VOCAB)
        while self._engine.has_work:
            for output in self._engine.step():
                if output.request_id in names:
                    counts[output.num_output_tokens - 1, output.token_ids[0]] += 1
        return counts

    def _add(self, prompt: list[int], params: SamplingParams) -> str:
        name = str(next(self._names))
        self._engine.add(name, prompt, params)
        return name


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> torch.Tensor:
    """Return what DRAWS requests yield one after the other."""
    draws = Draws(checkpoint)
    return sum((draws.run({draws.add(seed)}) for seed in range(DRAWS)), torch.zeros(()))


@pytest.fixture(scope="module")
def batched(checkpoint: Path) -> torch.Tensor:
    """Return what as many with other seeds yield in batches of random company."""
    draws, rng = Draws(checkpoint), random.Random(0)
    counts, seeds = torch.zeros(NUM_TOKENS, VOCAB), iter(range(DRAWS, 2 * DRAWS))
    while names := {draws.add(seed) for seed in itertools.islice(seeds, rng.randint(1, 24))}:
        for _ in range(rng.randint(0, 12)):
            draws.add_neighbour(rng)
        counts += draws.run(names)
    return counts


@pytest.mark.parametrize("position", range(NUM_TOKENS))
def test_batching_does_not_change_the_distribution(
    alone: torch.Tensor, batched: torch.Tensor, position: int
) -> None:
    """A chi-square test of two samples (p = 0.001) does not tell the two ways apart."""
    pair = torch.stack([alone[position], batched[position]])
    assert pair.sum(1).tolist() == [DRAWS, DRAWS]
    common = pair.sum(0) >= 10
    # tokens too rare for the test are taken together
    columns = torch.cat([pair[:, common], pair[:, ~common].sum(1, keepdim=True)], 1)
    columns = columns[:, columns.sum(0) > 0]
    assert columns.shape[1] > 5
    statistic = ((columns[0] - columns[1]) ** 2 / columns.sum(0)).sum()
    assert statistic < chi_square_limit(columns.shape[1] - 1)
