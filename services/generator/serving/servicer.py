"""gRPC for callers that hold a connection to this replica."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh import rpc
from mesh.errors import DEADLINE_PASSED, Code, MeshError
from mesh.mailbox import Mailbox
from mesh.pb import common_pb2, generator_pb2, generator_pb2_grpc
from services.generator.engine import FinishReason, RequestError, StepOutput
from services.generator.serving import wire
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.submission import Submission

Context = grpc.aio.ServicerContext[Any, Any]

_FAULTS = {
    FinishReason.DEADLINE: (Code.DEADLINE_EXCEEDED, DEADLINE_PASSED),
    FinishReason.ABORT: (Code.UNAVAILABLE, "The generator stops."),
    FinishReason.ERROR: (Code.INTERNAL, "The generator failed on this request."),
    FinishReason.REJECTED: (Code.RESOURCE_EXHAUSTED, "This replica's queue is full."),
}


class GeneratorServicer(generator_pb2_grpc.GeneratorServicer):
    """Describe and Generate over the engine that the bus worker uses too."""

    def __init__(self, bridge: EngineBridge, model: common_pb2.ModelInfo, replica_id: str) -> None:
        self._bridge = bridge
        self._model = model
        self._replica_id = replica_id

    async def Describe(
        self, request: generator_pb2.DescribeGeneratorRequest, context: Context
    ) -> generator_pb2.DescribeGeneratorResponse:
        """Return the model and this replica's id."""
        return generator_pb2.DescribeGeneratorResponse(
            model=self._model, replica_id=self._replica_id
        )

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generator_pb2.GenerateResponse]:
        """Yield a response per sequence and engine step; leaving the call ends the sequences."""
        inbox, submission = _Inbox(), self._submission(request, context)
        if not self._submit(submission, inbox):
            raise MeshError(
                Code.RESOURCE_EXHAUSTED,
                "This replica has no room.",
                retry_after_s=self._bridge.expected_wait_s(),
            )
        left = {one_id: index for index, one_id in enumerate(submission.sequence_ids)}
        try:
            while left:
                for output in await inbox.take_all():
                    yield _response(output, left[output.request_id])
                    if output.finish_reason is not None:
                        del left[output.request_id]
        finally:
            for one_id in left:
                self._bridge.abort(one_id)

    def _submission(self, request: generator_pb2.GenerateRequest, context: Context) -> Submission:
        asks = request.HasField("sampling")
        sampling = request.sampling if asks else self._model.default_sampling
        try:
            params = wire.sampling_params(sampling)
        except MeshError:
            self._bridge.metrics.refused("invalid")
            raise
        return Submission(
            request_id=uuid.uuid4().hex,
            prompt_token_ids=tuple(request.prompt_token_ids),
            params=params,
            deadline=rpc.request_context(context).deadline,
            cache_salt=request.cache_salt,
            priority=request.priority,
            tenant=request.tenant,
        )

    def _submit(self, submission: Submission, inbox: "_Inbox") -> bool:
        try:
            return self._bridge.submit(submission, inbox)
        except RequestError as error:
            self._bridge.metrics.refused("invalid")
            raise wire.refused(error) from error


def _response(output: StepOutput, sequence: int) -> generator_pb2.GenerateResponse:
    if output.finish_reason in _FAULTS:
        wait_s = None if output.refusal is None else output.refusal.expected_wait_s
        raise MeshError(*_FAULTS[output.finish_reason], retry_after_s=wait_s)
    response = generator_pb2.GenerateResponse(
        token_ids=output.token_ids,
        logprobs=wire.logprobs(output.logprobs),
        prompt_logprobs=wire.logprobs(output.prompt_logprobs),
        sequence=sequence,
        other_beams=wire.other_beams(output),
        start=wire.start(output),
    )
    if output.finish_reason is not None:
        response.finish_reason = wire.finish_reason(output)
        response.usage.CopyFrom(wire.usage(output))
        response.timings.CopyFrom(wire.timings(output))
    return response


class _Inbox(Mailbox[StepOutput]):
    """Outputs of one call; bounded by its sequences' max_tokens."""

    def receive(self, outputs: list[StepOutput]) -> None:
        self.put(*outputs)
