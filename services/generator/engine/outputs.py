"""Step outputs: the new tokens of one request, its logprobs, and its outcome at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.request import FinishReason, Request
from services.generator.engine.token_logprobs import TokenLogprobs


class Refusal(NamedTuple):
    """The limit of the queue that kept a request out, and the seconds until a place is expected."""

    reason: str
    expected_wait_s: float


class Start(NamedTuple):
    """What is known of a request once it has a token: two durations in seconds, cached tokens."""

    num_cached_tokens: int
    queue_s: float
    prefill_s: float


class Beam(NamedTuple):
    """A sequence that a beam search found, and why it ends there: STOP or LENGTH."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class StepOutput:
    """New tokens of one request, and its outcome if this is its last output.

    `token_ids` has a final stop token only where the request includes it, while `num_output_tokens`
    counts it always: usage is what the model generated (as in vLLM), delivery is what a reader
    should see. `logprobs`, where asked for, describes each of `token_ids`; `prompt_logprobs`, with
    the first token, each prompt token but the first. `start` comes with the first token, because a
    reader that has enough never sees the end; the three durations are seconds, zero until the final
    output, as is the number of preemptions. `refusal` comes with REJECTED alone. A beam search has
    one output, with the best sequence; `other_beams` are the next best.
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
    start: Start | None = None


def progress(request: Request, token_ids: tuple[int, ...]) -> StepOutput:
    """Describe the next delivered tokens of a request that goes on."""
    num_output_tokens = request.num_output_tokens
    return StepOutput(
        request.request_id,
        token_ids,
        None,
        request.num_prompt_tokens,
        num_output_tokens,
        request.num_cached_tokens or 0,
        logprobs=_take(request.new_logprobs, len(token_ids)),
        prompt_logprobs=_take(request.new_prompt_logprobs),
        start=_start(request) if num_output_tokens == len(token_ids) else None,
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
        logprobs=_take(request.new_logprobs, len(token_ids)),
        # a prompt that was cut off before its first token is not described in part
        prompt_logprobs=_take(
            request.new_prompt_logprobs, None if request.num_output_tokens else 0
        ),
        num_preemptions=request.num_preemptions,
    )


def _start(request: Request) -> Start:
    scheduled_s, first_token_s = request.first_scheduled_s, request.first_token_s
    assert scheduled_s is not None and first_token_s is not None, "no token yet. This is a bug."
    return Start(
        request.num_cached_tokens or 0,
        queue_s=scheduled_s - request.arrival_s,
        prefill_s=first_token_s - scheduled_s,
    )


def collect_logprobs(chunks: Sequence[Chunk], results: Sequence[ChunkResult]) -> None:
    """Keep the logprobs of the chunks' tokens until their requests' next outputs."""
    for chunk, result in zip(chunks, results, strict=True):
        if not (result.logprobs or result.prompt_logprobs or result.forks):
            continue
        request = chunk.request
        sequences, own_results = (request, *request.forks), (result, *result.forks)
        for sequence, own in zip(sequences, own_results, strict=False):
            sequence.new_logprobs += own.logprobs
        request.new_prompt_logprobs += result.prompt_logprobs
        request.num_scored_tokens += len(result.prompt_logprobs)


def _take(logprobs: list[TokenLogprobs], count: int | None = None) -> tuple[TokenLogprobs, ...]:
    """Return the first `count` and clear all: a token that is not delivered is not described."""
    if not logprobs:
        return ()
    taken = tuple(logprobs[:count])
    logprobs.clear()
    return taken
