"""Steps whose true times are known."""

from collections.abc import Sequence

from services.generator.engine import SamplingParams
from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.scheduling.step_time import StepTime

# of the size of SmolLM-135M's on one core
TRUTH = StepTime(0.025, 0.00125, 0.00000045)


def duration_s(truth: StepTime, chunks: Sequence[Chunk]) -> float:
    """Return what a step of these chunks takes: each token attends to itself and all before it."""
    num_pairs = sum(sum(range(chunk.start + 1, chunk.end + 1)) for chunk in chunks)
    return truth.predict(sum(chunk.num_tokens for chunk in chunks), num_pairs)


def request(num_tokens: int) -> Request:
    params = SamplingParams(1)
    return Request("r", [1] * num_tokens, params, 0, frozenset(), root_hash(""), 0, 0.0)
