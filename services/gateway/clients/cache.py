"""The answer cache over gRPC."""

import grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.pb import cache_pb2 as pb
from mesh.pb import cache_pb2_grpc as pb_grpc
from services.gateway.common_wire import (
    FINISH_NUMBERS,
    FINISH_REASONS,
    sampling_message,
    usage_message,
    usage_value,
)
from services.gateway.domain.generation import Answer, GenerationRequest


class GrpcCache:
    """See `ports.AnswerCache`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = pb_grpc.CacheStub(channel)

    async def lookup(self, request: GenerationRequest, context: RequestContext) -> Answer | None:
        """Return the answer to an equal request of the same tenant."""
        lookup = pb.LookupRequest(key=_key(request))
        reply = await rpc.call(self._stub.Lookup, lookup, context)
        answer = reply.answer
        if not reply.HasField("answer") or answer.finish_reason not in FINISH_REASONS:
            return None
        reason = FINISH_REASONS[answer.finish_reason]
        return Answer(answer.text, reason, usage_value(answer.usage))

    async def store(
        self, request: GenerationRequest, answer: Answer, context: RequestContext
    ) -> None:
        """Keep an answer for the service's default time."""
        cached = pb.CachedAnswer(
            text=answer.text,
            finish_reason=FINISH_NUMBERS[answer.finish_reason],
            usage=usage_message(answer.usage),
        )
        store = pb.StoreRequest(key=_key(request), answer=cached)
        await rpc.call(self._stub.Store, store, context)


def _key(request: GenerationRequest) -> pb.CacheKey:
    return pb.CacheKey(
        tenant=request.tenant,
        model=request.model.id,
        model_revision=request.model.revision,
        prompt_token_ids=request.prompt_token_ids,
        sampling=sampling_message(request.sampling),
        stop=request.stop,
        include_stop=request.include_stop,
        answer_prefix=request.answer_prefix,
    )
