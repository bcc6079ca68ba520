"""Generate over real gRPC for callers that hold a connection to one replica."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from mesh.lifecycle import Lifecycle
from mesh.pb import common_pb2
from mesh.pb import generator_pb2 as pb
from mesh.pb import generator_pb2_grpc as pb_grpc
from services.generator.engine import QueueFullError, sequence_seed
from services.generator.serving import wire
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.servicer import GeneratorServicer
from tests.generator.serving.tiny_bridge import bridged
from tests.generator.tiny import VOCAB
from tests.waiting import until


class Service:
    """A served bridge and a stub for it."""

    def __init__(self, bridge: EngineBridge, stub: Any) -> None:
        self.bridge = bridge
        self.stub = stub

    def generate(self, request: pb.GenerateRequest, limit_s: float = 20.0) -> AsyncIterator[Any]:
        return rpc.stream(self.stub.Generate, request, RequestContext.start(limit_s))


@pytest.fixture
async def service(checkpoint: Path) -> AsyncIterator[Service]:
    """The real service with room for two calls; at the end nothing may be left in the engine."""
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(bridged(checkpoint, max_live=2))
        lifecycle = Lifecycle()
        stack.push_async_callback(lifecycle.close)
        model = wire.model_info(checkpoint, "tiny", bridge.engine)
        model.default_sampling.max_tokens = 11
        model.default_sampling.temperature = 0
        servicer = GeneratorServicer(bridge, model, "r1")
        add = partial(pb_grpc.add_GeneratorServicer_to_server, servicer)
        port = await rpc.serve(lifecycle, "127.0.0.1:0", [add], ["mesh.v1.Generator"])
        channel = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{port}"))
        yield Service(bridge, pb_grpc.GeneratorStub(channel))


def request(max_tokens: int = 8, prompt: tuple[int, ...] = (1, 2, 3), **sampling: Any) -> Any:
    params = common_pb2.SamplingParams(max_tokens=max_tokens, ignore_eos=True, **sampling)
    return pb.GenerateRequest(prompt_token_ids=prompt, sampling=params)


async def refusal(replies: AsyncIterator[Any]) -> MeshError:
    with pytest.raises(MeshError) as refused:
        async for _ in replies:
            pass
    return refused.value


async def test_describe(service: Service) -> None:
    """Describe tells the model and the replica."""
    reply = await service.stub.Describe(pb.DescribeGeneratorRequest())
    assert (reply.model.id, reply.model.vocab_size, reply.replica_id) == ("tiny", VOCAB, "r1")


async def test_tokens_stream_to_their_end(service: Service) -> None:
    """A response per step; only the last has a reason, usage and timings."""
    replies = [reply async for reply in service.generate(request(8))]
    assert len([t for r in replies for t in r.token_ids]) == 8
    assert len(replies) > 1
    assert {r.finish_reason for r in replies[:-1]} == {common_pb2.FINISH_REASON_UNSPECIFIED}
    assert replies[-1].finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert replies[-1].usage.completion_tokens == 8
    assert replies[-1].timings.prefill_s > 0


async def test_the_first_response_tells_how_it_began(service: Service) -> None:
    """A caller that leaves early knows the cached tokens and the times until the first token."""
    first, *later = [reply async for reply in service.generate(request(8))]
    assert first.start.prefill_s == later[-1].timings.prefill_s > 0
    assert first.start.queue_s == later[-1].timings.queue_s
    assert first.start.cached_prompt_tokens == later[-1].usage.cached_prompt_tokens
    assert not any(reply.HasField("start") for reply in later)


async def test_n_sequences_stream_side_by_side(service: Service) -> None:
    """Each response says whose tokens it has; each sequence has its own end and usage."""
    asked = request(6, temperature=1.0, seed=3, n=2)
    replies = [reply async for reply in service.generate(asked)]
    tokens = [[t for r in replies if r.sequence == i for t in r.token_ids] for i in (0, 1)]
    assert [len(told) for told in tokens] == [6, 6]
    assert tokens[0] != tokens[1]
    ends = [(r.sequence, r.usage.completion_tokens) for r in replies if r.finish_reason]
    assert sorted(ends) == [(0, 6), (1, 6)]
    alone = request(6, temperature=1.0, seed=sequence_seed(3, 1))
    assert [t async for r in service.generate(alone) for t in r.token_ids] == tokens[1]


async def test_leaving_ends_all_sequences(service: Service) -> None:
    """A caller that goes away lets go of all its places."""
    async with aclosing(service.generate(request(200, n=2))) as replies:  # type: ignore[type-var]
        await anext(replies)
        assert service.bridge.room() == 0
    await until(lambda: service.bridge.room() == 2)


async def test_a_beam_search_answers_at_its_end(service: Service) -> None:
    """One response with the best sequence and the next best ones."""
    [reply] = [reply async for reply in service.generate(request(6, n=2, beam_width=3))]
    assert reply.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert [len(reply.token_ids), len(reply.other_beams)] == [6, 1]
    assert reply.other_beams[0].token_ids != reply.token_ids
    assert reply.usage.completion_tokens == 12


async def test_no_sampling_means_the_models_own(service: Service) -> None:
    """A request that says nothing of sampling is one that spells out what Describe tells."""
    told = (await service.stub.Describe(pb.DescribeGeneratorRequest())).model.default_sampling
    assert (told.max_tokens, told.temperature) == (11, 0.0)
    silent = pb.GenerateRequest(prompt_token_ids=(1, 2, 3))
    spelt = pb.GenerateRequest(prompt_token_ids=(1, 2, 3), sampling=told)
    first, second = [
        [t for reply in [r async for r in service.generate(asked)] for t in reply.token_ids]
        for asked in (silent, spelt)
    ]
    assert first == second and 0 < len(first) <= 11


async def test_tenant_and_priority_reach_the_engine(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A direct caller's request takes its turn as one from a gateway does."""
    engine, asked = service.bridge.engine, []
    add = engine.add

    def heard(*args: Any, **kwargs: Any) -> None:
        asked.append((kwargs["tenant"], kwargs["priority"]))
        add(*args, **kwargs)

    monkeypatch.setattr(engine, "add", heard)
    wanted = request(2)
    wanted.tenant, wanted.priority = "acme", -3
    assert [reply async for reply in service.generate(wanted)]
    assert asked == [("acme", -3)]


async def test_log_probabilities_stream_with_their_tokens(service: Service) -> None:
    """Each token has one, the prompt's come with the first; nobody else gets any."""
    asked = request(5, logprobs=2, prompt_logprobs=0)
    replies = [reply async for reply in service.generate(asked)]
    assert [len(r.logprobs) for r in replies] == [len(r.token_ids) for r in replies]
    told = [one for r in replies for one in r.logprobs]
    assert [one.token_id for one in told] == [t for r in replies for t in r.token_ids]
    assert all(len(one.top_token_ids) == len(one.top_logprobs) == 2 for one in told)
    assert all(one.rank == 1 and one.logprob == one.top_logprobs[0] for one in told)
    assert [one.token_id for one in replies[0].prompt_logprobs] == [2, 3]
    assert not any(r.prompt_logprobs for r in replies[1:])
    plain = [reply async for reply in service.generate(request(5))]
    assert not any(r.logprobs or r.prompt_logprobs for r in plain)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request(0), "max_tokens"),
        (request(100_000), "max_tokens"),
        (request(4, ()), "prompt_token_ids"),
        (request(4, (VOCAB,)), "prompt_token_ids"),
        (request(4, (1,) * 300), "prompt_token_ids"),
        (request(4, top_p=2), "top_p"),
        (request(4, n=9), "n"),
        (request(4, beam_width=9), "beam_width"),
        (request(4, beam_width=2, logprobs=1), "logprobs"),
        (request(4, stop_token_ids=[VOCAB]), "stop_token_ids"),
        (request(4, logit_bias={VOCAB: 1.0}), "logit_bias"),
        (request(4, allowed_token_ids=[1], bad_token_ids=[1]), "allowed_token_ids"),
    ],
)
async def test_a_bad_request_names_the_field(service: Service, bad: Any, field: str) -> None:
    """INVALID_ARGUMENT with the name of the proto's field, in the message as well."""
    error = await refusal(service.generate(bad))
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, field)
    assert field in error.message


async def test_a_caller_that_leaves_frees_its_blocks(service: Service) -> None:
    """Leaving the loop ends the sequence in the engine."""
    async with aclosing(service.generate(request(250))) as replies:
        await anext(replies)
        assert service.bridge.num_live() == 1
    await until(lambda: service.bridge.num_live() == 0)
    assert service.bridge.stats().num_blocks_used == 0


async def test_a_cancelled_call_frees_its_blocks(service: Service) -> None:
    """Cancelling before the first response was read has the same effect."""
    call = service.stub.Generate(request(250))
    await until(lambda: service.bridge.num_live() == 1)
    call.cancel()
    await until(lambda: service.bridge.num_live() == 0)


async def test_no_room_tells_when_to_come_back(service: Service) -> None:
    """A call beyond the room is refused at once with a time to retry."""
    async with (
        aclosing(service.generate(request(250))) as first,
        aclosing(service.generate(request(250))) as second,
    ):
        await asyncio.gather(anext(first), anext(second))
        error = await refusal(service.generate(request(4)))
    assert (error.code, error.retry_after_s) == (Code.RESOURCE_EXHAUSTED, 1.0)


async def test_a_full_queue_tells_the_expected_wait(service: Service) -> None:
    """What the engine's queue refuses ends with the wait that the engine expects."""

    def full(*_: object, **__: object) -> None:
        raise QueueFullError("max_queued_tokens", 12.5)

    service.bridge.engine.add = full  # type: ignore[method-assign]
    error = await refusal(service.generate(request(4)))
    assert (error.code, error.retry_after_s) == (Code.RESOURCE_EXHAUSTED, 12.5)
    assert service.bridge.metrics.refusals == {"max_queued_tokens": 1}


async def test_the_deadline_ends_the_sequence(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that outlives its deadline fails with it and leaves nothing behind."""
    step = service.bridge.engine.step

    def slow_step() -> Any:
        time.sleep(0.05)  # on the engine's thread
        return step()

    monkeypatch.setattr(service.bridge.engine, "step", slow_step)
    error = await refusal(service.generate(request(250), limit_s=0.4))
    assert error.code is Code.DEADLINE_EXCEEDED
    await until(lambda: service.bridge.num_live() == 0)


async def test_a_fault_leaks_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown exception becomes INTERNAL without its class or text."""

    def burn(*_: object) -> bool:
        raise ValueError("secret /etc/path")

    monkeypatch.setattr(service.bridge, "submit", burn)
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        async for _ in service.stub.Generate(request(4)):
            pass
    assert raw.value.code() is grpc.StatusCode.INTERNAL
    assert raw.value.details() == "Internal error."
    assert "secret" not in repr(raw.value.trailing_metadata())


async def test_a_sequence_that_fails_in_the_engine(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that the engine confines to a sequence ends its call with INTERNAL."""

    def burn(chunks: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.bridge.engine._runner, "execute", burn)
    error = await refusal(service.generate(request(4)))
    assert error.code is Code.INTERNAL
    assert "secret" not in error.message
