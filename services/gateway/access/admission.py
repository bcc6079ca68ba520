"""May this caller do this now? One question, asked before any work is done for a request."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from services.gateway.domain.generation import GenerationRequest, Model, Reservation, find_model
from services.gateway.domain.ports import AdmissionQueue
from services.gateway.domain.request import Conversation, InferenceRequest, Principal, Prompts

# of text in most languages; the estimate is corrected once the tokens are counted
BYTES_PER_TOKEN = 4


class Permit:
    """What a request was granted; leaving its `with` block gives back what was not used."""

    def __init__(self, queue: AdmissionQueue, reservation: Reservation) -> None:
        self.reservation = reservation
        self._queue = queue

    @property
    def model(self) -> Model:
        """The model that the request names."""
        return self.reservation.model

    def correct(self, requests: Sequence[GenerationRequest]) -> None:
        """Count the tokens of what will be generated; raises RESOURCE_EXHAUSTED."""
        self._queue.correct(self.reservation, [request.peak_tokens for request in requests])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.release(self.reservation)


class Admission:
    """Grants permits: to whom the request's priority is allowed and the queue has places for."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self._queue = queue

    def admit(self, principal: Principal, request: InferenceRequest) -> Permit:
        """Return the permit for a request.

        Raises PERMISSION_DENIED, UNAVAILABLE or NOT_FOUND for its model, or RESOURCE_EXHAUSTED
        with the time to try again.
        """
        options = request.options
        principal.check_priority(options.priority)
        model = find_model(self._queue.models(), options.model)
        reservation = self._queue.reserve(
            model,
            estimated_tokens(request, model),
            tenant=principal.tenant,
            priority=options.priority,
        )
        return Permit(self._queue, reservation)


def estimated_tokens(request: InferenceRequest, model: Model) -> list[int]:
    """Return the KV tokens that each run of the generator may need, from the request's bytes."""
    options = request.options
    wanted = options.sampling.max_tokens or model.defaults.max_tokens or request.default_max_tokens
    estimates = []
    for prompt_tokens in _prompt_tokens(request.prompt):
        num_prompt = min(prompt_tokens, model.context_length)
        num_new = min(wanted, model.context_length - num_prompt)
        peak = num_prompt + num_new * max(1, options.sampling.beam_width)
        estimates += [peak] * options.runs_per_prompt
    return estimates


def _prompt_tokens(prompt: Conversation | Prompts) -> Iterator[int]:
    if isinstance(prompt, Conversation):
        yield 1 + sum(_num_bytes(m.content) for m in prompt.messages) // BYTES_PER_TOKEN
        return
    yield from (len(token_ids) for token_ids in prompt.token_ids)
    yield from (1 + _num_bytes(text) // BYTES_PER_TOKEN for text in prompt.texts)


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
