"""The domain's values as messages of the bus: jobs out, deltas and announcements in."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from mesh.errors import DEADLINE_PASSED, Code, MeshError, unavailable
from mesh.pb import common_pb2, events_pb2
from services.gateway.common_wire import FINISH_REASONS, sampling_message, usage_value
from services.gateway.domain.generation import (
    Defaults,
    GenerationRequest,
    Model,
    Timings,
    TokenLogprobs,
    Usage,
)
from services.gateway.generation.routing import Report


@dataclass(frozen=True, slots=True)
class Beam:
    """A further result of a beam search."""

    token_ids: Sequence[int]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended: well where it has a `finish_reason`, before it began where `rejected`.

    `expected_wait_s` is when a replica that rejected it expects a place.
    """

    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    other_beams: tuple[Beam, ...] = ()
    error: MeshError | None = None
    rejected: bool = False
    expected_wait_s: float | None = None


class Start(NamedTuple):
    """What is known of a job once it has a token; durations in seconds."""

    num_cached_tokens: int
    queue_s: float
    prefill_s: float


class Delta(NamedTuple):
    """New tokens of a job, described where it asks for that; the last has its `end`.

    The first have its prompt's descriptions and its `start`, unless they are the last or an older
    replica sent them.

    A tuple, because one is made for each sequence of each step.
    """

    token_ids: Sequence[int]
    logprobs: tuple[TokenLogprobs, ...]
    end: End | None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    start: Start | None = None


def job_command(
    job_id: str, request: GenerationRequest, deadline_unix_ms: int
) -> events_pb2.Command:
    """Return the command that gives a replica a sequence to generate."""
    job = events_pb2.Job(
        job_id=job_id,
        prompt_token_ids=request.prompt_token_ids,
        sampling=sampling_message(request.sampling),
        deadline_unix_ms=deadline_unix_ms,
        model_revision=request.model.revision,
        tenant=request.tenant,
        cache_salt=request.tenant,
        priority=request.priority,
    )
    return events_pb2.Command(job=job)


def cancel_command(job_id: str, *, stopped: bool) -> events_pb2.Command:
    """Return the command that ends a job early; `stopped` where a stop string ended its text."""
    return events_pb2.Command(cancel=events_pb2.Cancel(job_id=job_id, stopped=stopped))


def resend_command(first: int, last: int) -> events_pb2.Command:
    """Return the command that has frames sent again, both numbers included."""
    return events_pb2.Command(resend=events_pb2.Resend(first=first, last=last))


def report(message: events_pb2.Announcement) -> Report:
    """Return what a replica says of itself."""
    model = message.model
    return Report(
        replica_id=message.replica_id,
        model=Model(
            model.id,
            model.revision,
            model.context_length,
            model.vocab_size,
            tuple(model.eos_token_ids),
            _defaults(model),
        ),
        room_sequences=message.room_sequences,
        room_tokens=message.room_tokens,
        load=message.running + message.waiting,
        draining=message.draining,
        job_ids=frozenset(message.job_ids),
        expected_wait_s=message.expected_wait_s,
    )


def delta(message: events_pb2.SequenceDelta, *, is_first: bool) -> Delta:
    """Return what a replica says of one job in one frame; `is_first` until it has had tokens."""
    logprobs = message.logprobs
    new = Delta(
        message.token_ids,
        tuple(map(_token_logprobs, logprobs)) if logprobs else (),
        _end(message) if message.finish_reason else None,
    )
    return _with_start(new, message) if is_first else new


def _with_start(delta: Delta, message: events_pb2.SequenceDelta) -> Delta:
    start = None
    if message.HasField("start"):
        begun = message.start
        start = Start(begun.cached_prompt_tokens, begun.queue_s, begun.prefill_s)
    prompt_logprobs = tuple(map(_token_logprobs, message.prompt_logprobs))
    return delta._replace(prompt_logprobs=prompt_logprobs, start=start)


def _end(message: events_pb2.SequenceDelta) -> End:
    reason = message.finish_reason
    if reason == common_pb2.FINISH_REASON_REJECTED:
        wait_s = message.expected_wait_s if message.HasField("expected_wait_s") else None
        return End(rejected=True, expected_wait_s=wait_s)
    if reason not in FINISH_REASONS:
        return End(error=_failure(reason))
    timings = message.timings
    return End(
        finish_reason=FINISH_REASONS[reason],
        usage=usage_value(message.usage),
        timings=Timings(timings.queue_s, timings.prefill_s, timings.decode_s),
        other_beams=tuple(
            Beam(beam.token_ids, FINISH_REASONS[beam.finish_reason]) for beam in message.other_beams
        ),
    )


def _failure(reason: common_pb2.FinishReason) -> MeshError:
    if reason == common_pb2.FINISH_REASON_DEADLINE:
        return MeshError(Code.DEADLINE_EXCEEDED, DEADLINE_PASSED)
    if reason == common_pb2.FINISH_REASON_ABORT:
        return unavailable("The generator stopped before the answer was complete.")
    return MeshError(Code.INTERNAL, "The generator failed on this request.")


def _token_logprobs(message: common_pb2.TokenLogprobs) -> TokenLogprobs:
    top = tuple(zip(message.top_token_ids, message.top_logprobs, strict=True))
    return TokenLogprobs(message.token_id, message.logprob, message.rank, top)


def _defaults(model: common_pb2.ModelInfo) -> Defaults:
    if not model.HasField("default_sampling"):
        return Defaults()
    values = {field.name: getattr(model.default_sampling, field.name) for field in fields(Defaults)}
    return Defaults(**{**values, "max_tokens": values["max_tokens"] or None})
