"""Messages of the bus as the domain's values."""

import pytest

from mesh.errors import Code
from mesh.pb import common_pb2, events_pb2
from services.gateway.domain.generation import (
    Defaults,
    GenerationRequest,
    Model,
    Sampling,
    Timings,
    TokenLogprobs,
    Usage,
)
from services.gateway.generation import wire
from services.gateway.generation.wire import Beam, End, Start

MODEL = Model("tiny", "r", 512, 256, (0,))
STOP, LENGTH = common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH


def test_a_job_carries_what_the_replica_needs() -> None:
    """Prompt, sampling, deadline, revision, and the tenant as salt of its prefixes."""
    request = GenerationRequest(MODEL, (1, 2), Sampling(4, seed=7), tenant="dev", priority=-3)
    job = wire.job_command("j1", request, 1234).job
    assert (job.job_id, list(job.prompt_token_ids), job.deadline_unix_ms) == ("j1", [1, 2], 1234)
    assert (job.sampling.max_tokens, job.sampling.seed, job.priority) == (4, 7, -3)
    assert (job.model_revision, job.tenant, job.cache_salt) == ("r", "dev", "dev")


def test_commands_that_follow_a_job() -> None:
    """A cancel names the job and its reason, a resend both ends of the gap."""
    for stopped in (False, True):
        cancel = wire.cancel_command("j1", stopped=stopped).cancel
        assert (cancel.job_id, cancel.stopped) == ("j1", stopped)
    resend = wire.resend_command(3, 5).resend
    assert (resend.first, resend.last) == (3, 5)


def test_a_delta_in_the_middle_has_no_end() -> None:
    """Tokens with their descriptions, the alternatives as pairs."""
    described = common_pb2.TokenLogprobs(
        token_id=5, logprob=-0.5, rank=2, top_token_ids=[6, 5], top_logprobs=[-0.25, -0.5]
    )
    message = events_pb2.SequenceDelta(token_ids=[5], logprobs=[described])
    delta = wire.delta(message, is_first=False)
    assert (list(delta.token_ids), delta.end) == ([5], None)
    assert delta.logprobs == (TokenLogprobs(5, -0.5, 2, ((6, -0.25), (5, -0.5))),)


def test_the_first_delta_may_tell_how_a_job_began() -> None:
    """Its start is told with the first tokens; a delta without it has none."""
    start = common_pb2.Start(cached_prompt_tokens=2, queue_s=0.5, prefill_s=0.25)
    message = events_pb2.SequenceDelta(token_ids=[5], start=start)
    first = wire.delta(message, is_first=True)
    assert first.start == Start(num_cached_tokens=2, queue_s=0.5, prefill_s=0.25)
    assert wire.delta(events_pb2.SequenceDelta(token_ids=[5]), is_first=True).start is None


def test_a_good_end_has_its_counts_and_beams() -> None:
    """The finish reason by name, usage, timings, and the further results of a search."""
    message = events_pb2.SequenceDelta(
        job_id="j1",
        finish_reason=LENGTH,
        usage=common_pb2.Usage(prompt_tokens=3, completion_tokens=5, cached_prompt_tokens=2),
        timings=common_pb2.Timings(queue_s=0.5, prefill_s=0.25, decode_s=1),
        other_beams=[common_pb2.Beam(token_ids=[7], finish_reason=STOP)],
    )
    end = wire.delta(message, is_first=False).end
    assert end is not None and (end.finish_reason, end.error) == ("length", None)
    assert (end.usage, end.timings) == (Usage(3, 5, 2), Timings(0.5, 0.25, 1.0))
    assert [(list(beam.token_ids), beam.finish_reason) for beam in end.other_beams] == [
        ([7], "stop")
    ]
    assert isinstance(end.other_beams[0], Beam)


@pytest.mark.parametrize("wait_s", [None, 0.0, 2.5])
def test_a_rejection_may_tell_a_wait(wait_s: float | None) -> None:
    """A wait of nothing is told; an absent one is none."""
    message = events_pb2.SequenceDelta(
        finish_reason=common_pb2.FINISH_REASON_REJECTED, expected_wait_s=wait_s
    )
    assert wire.delta(message, is_first=False).end == End(rejected=True, expected_wait_s=wait_s)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (common_pb2.FINISH_REASON_DEADLINE, Code.DEADLINE_EXCEEDED),
        (common_pb2.FINISH_REASON_ABORT, Code.UNAVAILABLE),
        (common_pb2.FINISH_REASON_ERROR, Code.INTERNAL),
    ],
)
def test_a_bad_end_is_an_error(reason: common_pb2.FinishReason, code: Code) -> None:
    """Each reason but the good ones has its code."""
    end = wire.delta(events_pb2.SequenceDelta(finish_reason=reason), is_first=True).end
    assert end is not None and end.error is not None and end.error.code is code


def test_a_report_knows_what_the_model_wishes() -> None:
    """Defaults come by name; a length of 0 is none, and an older replica has no defaults."""
    model = common_pb2.ModelInfo(id="tiny", revision="r", context_length=512, vocab_size=256)
    message = events_pb2.Announcement(replica_id="r1", model=model, running=2, waiting=3)
    report = wire.report(message)
    assert (report.replica_id, report.load, report.model.defaults) == ("r1", 5, Defaults())
    wishes = {"temperature": 0.5, "top_k": 3, "top_p": 0.25, "min_p": 0.125}
    model.default_sampling.MergeFrom(common_pb2.SamplingParams(**wishes, repetition_penalty=1.5))
    report = wire.report(events_pb2.Announcement(model=model))
    assert report.model.defaults == Defaults(None, **wishes, repetition_penalty=1.5)
