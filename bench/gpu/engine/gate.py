"""Whether an engine on the GPU says what our CPU engine says, before any speed is shown."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from bench.gpu.engine.random_engine import load_random_engine
from services.generator.engine import Engine, SamplingParams, TokenLogprobs

BOUNDS = {"float32": 0.01, "bfloat16": 0.15}
"""How far, in nats, two log-probabilities may lie apart by rounding."""

PROMPT_LENGTHS, OUTPUT_TOKENS = (1, 17, 64, 130, 300, 515), 24
# prompts come in chunks, and beside decodes
MAX_BATCHED_TOKENS = 256
ALTERNATIVES = 20


class Answer(NamedTuple):
    """A request's tokens, and what was told of each if that was asked for."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs]


@dataclass(frozen=True)
class Verdict:
    """What a comparison found; `failed` says why no speed may be shown.

    Behind the first other token nothing of an answer is compared. `worst_gap` is the CPU's, between
    its own token and the other; `worst_difference` is that of the same token's log-probability.
    """

    tokens: int = 0
    other_tokens: int = 0
    worst_gap: float = 0.0
    worst_difference: float = 0.0
    failed: str | None = None


def gate(
    config: Mapping[str, Any], dtype: str, device: str, lengths: Sequence[int] = PROMPT_LENGTHS
) -> dict[str, Any]:
    """Compare both engines, on the device once as it is timed and once telling log-probabilities.

    Returns the fields of both verdicts; `failed` is the first reason.
    """
    rng = random.Random(0)
    room = config["max_position_embeddings"] - OUTPUT_TOKENS
    lengths = [length for length in lengths if length <= room]
    prompts = [[rng.randrange(3, config["vocab_size"]) for _ in range(n)] for n in lengths]
    expected = _answers(_engine(config, dtype, "cpu", lengths), prompts, ALTERNATIVES)
    engine = _engine(config, dtype, device, lengths)
    verdicts = {
        "as timed": judge(expected, _answers(engine, prompts, None), BOUNDS[dtype]),
        "with logprobs": judge(expected, _answers(engine, prompts, 1), BOUNDS[dtype]),
    }
    row: dict[str, Any] = {name: asdict(verdict) for name, verdict in verdicts.items()}
    row["bound"] = BOUNDS[dtype]
    reasons = [f"{name}: {v.failed}" for name, v in verdicts.items() if v.failed is not None]
    return {**row, "failed": reasons[0]} if reasons else row


def judge(expected: Sequence[Answer], found: Sequence[Answer], bound: float) -> Verdict:
    """Hold answers against the CPU's: the same tokens, or at the first other one nearly a tie.

    Where the device told log-probabilities, those of the same tokens differ by less than the bound.
    """
    tokens = others = 0
    worst_gap = worst_difference = 0.0
    failed = None
    for index, (mine, theirs) in enumerate(zip(expected, found, strict=True)):
        if len(theirs.token_ids) != len(mine.token_ids):
            failed = failed or f"prompt {index} gave {len(theirs.token_ids)} tokens"
        for place, (token, other) in enumerate(zip(mine.token_ids, theirs.token_ids, strict=False)):
            tokens += 1
            if token != other:
                others += 1
                gap = _gap(mine.logprobs[place], other)
                worst_gap = max(worst_gap, gap)
                if gap > bound:
                    failed = failed or f"prompt {index}, token {place}: {other} for {token}"
                break
            if theirs.logprobs:
                told = mine.logprobs[place].logprob, theirs.logprobs[place].logprob
                difference = abs(told[0] - told[1])
                worst_difference = max(worst_difference, difference)
                if not difference <= bound:
                    failed = failed or f"prompt {index}, token {place}: {told[1]} for {told[0]}"
    return Verdict(tokens, others, worst_gap, worst_difference, failed)


def _gap(told: TokenLogprobs, other: int) -> float:
    """Return how much less likely the other token is; infinite where it is not even told."""
    alternatives = dict(zip(told.top_token_ids, told.top_logprobs, strict=True))
    return told.logprob - alternatives.get(other, -math.inf)


def _engine(config: Mapping[str, Any], dtype: str, device: str, lengths: Sequence[int]) -> Engine:
    return load_random_engine(
        config,
        device=device,
        max_num_seqs=len(lengths),
        num_tokens=sum(lengths) + len(lengths) * OUTPUT_TOKENS,
        dtype=dtype,
        weights_on="cpu",
        max_batched_tokens=MAX_BATCHED_TOKENS,
    )


def _answers(
    engine: Engine, prompts: Sequence[Sequence[int]], logprobs: int | None
) -> list[Answer]:
    params = SamplingParams(
        max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True, logprobs=logprobs
    )
    answers = {f"gate {index}": Answer([], []) for index in range(len(prompts))}
    for request_id, prompt in zip(answers, prompts, strict=True):
        engine.add(request_id, prompt, params)
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id].token_ids.extend(output.token_ids)
            answers[output.request_id].logprobs.extend(output.logprobs)
    return list(answers.values())
