"""What one engine step tells the outside about one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from services.generator.engine.request import FinishReason, Request
from services.generator.engine.sequences.beam_search import Hypothesis
from services.generator.engine.token_logprobs import TokenLogprobs


class Refusal(NamedTuple):
    """Which limit of the queue kept a request out, and how many seconds a place takes to come."""

    reason: str
    expected_wait_s: float


class Beam(NamedTuple):
    """A sequence that a beam search found, and why it ends there: STOP or LENGTH."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class StepOutput:
    """New tokens of one request, and its outcome if this is its last output.

    `token_ids` never contains a final stop token, while `num_output_tokens` counts it: usage is
    what the model generated (as in vLLM), delivery is what a reader should see. `logprobs`, where
    asked for, describes each of `token_ids`; `prompt_logprobs`, with the first token, each prompt
    token but the first. The three durations are seconds, zero until the final output, as is the
    number of preemptions. `refusal` comes with REJECTED alone. A beam search has one output, with
    the best sequence; `other_beams` are the next best.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    num_preemptions: int = 0
    refusal: Refusal | None = None
    other_beams: tuple[Beam, ...] = ()


def progress(request: Request, token_ids: tuple[int, ...]) -> StepOutput:
    """Describe the next delivered tokens of a request that goes on."""
    return StepOutput(
        request.request_id,
        token_ids,
        None,
        request.num_prompt_tokens,
        request.num_output_tokens,
        request.num_cached_tokens or 0,
        logprobs=_told(request.new_logprobs, len(token_ids)),
        prompt_logprobs=_told(request.new_prompt_logprobs),
    )


def conclusion(request: Request, token_ids: tuple[int, ...], now_s: float) -> StepOutput:
    """Describe the end of a finished request, with the time it spent in each stage."""
    scheduled_s = now_s if request.first_scheduled_s is None else request.first_scheduled_s
    first_token_s = now_s if request.first_token_s is None else request.first_token_s
    return StepOutput(
        request.request_id,
        token_ids,
        request.finish_reason,
        request.num_prompt_tokens,
        request.num_output_tokens,
        request.num_cached_tokens or 0,
        queue_s=scheduled_s - request.arrival_s,
        prefill_s=first_token_s - scheduled_s,
        decode_s=now_s - first_token_s,
        logprobs=_told(request.new_logprobs, len(token_ids)),
        # a prompt that was cut off before its first token is not told in part
        prompt_logprobs=_told(
            request.new_prompt_logprobs, None if request.num_output_tokens else 0
        ),
        num_preemptions=request.num_preemptions,
    )


def beams_told(end: StepOutput, found: Sequence[Hypothesis]) -> StepOutput:
    """Put the sequences that a beam search found, best first, into the output that ends it."""
    if not found:
        return end
    best, *others = (
        Beam(h.token_ids, FinishReason.STOP if h.is_stopped else FinishReason.LENGTH) for h in found
    )
    return replace(
        end,
        token_ids=best.token_ids,
        num_output_tokens=sum(hypothesis.num_tokens for hypothesis in found),
        other_beams=tuple(others),
    )


def _told(news: list[TokenLogprobs], count: int | None = None) -> tuple[TokenLogprobs, ...]:
    """Take the first `count` of the news; a token that is not delivered is not described."""
    told = tuple(news[:count])
    news.clear()
    return told
