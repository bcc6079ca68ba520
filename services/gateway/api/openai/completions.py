"""`POST /v1/completions`: prompts' continuations."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from mesh.errors import invalid
from services.gateway.api.fields import Fields, text, texts, wrong_type
from services.gateway.api.openai.chunks import ChunkForm, Chunks
from services.gateway.api.openai.logprobs import LogprobsWriter, joined, text_spelling
from services.gateway.api.openai.objects import identity, usage_counts
from services.gateway.api.openai.options import (
    Delivery,
    read_beam_search,
    read_best_of,
    read_delivery,
    read_n,
    read_options,
)
from services.gateway.api.openai.sampling_fields import MAX_LOGPROBS, MAX_TOKENS, token_ids
from services.gateway.api.responder import FinishedChoice, Responder
from services.gateway.domain.generation import TextDelta, Usage
from services.gateway.domain.request import InferenceRequest, Prompts
from services.gateway.http import sse
from services.gateway.http.middleware import CONTEXT
from services.gateway.pipeline.plan import Choice, Plan
from services.gateway.pipeline.token_text import TokenText

MAX_SEQUENCES = 128
FORM = ChunkForm("text_completion", '"text":', "", None, '"text":""')


class Completions:
    """The endpoint. An answer without max_tokens has `default_max_tokens` at most."""

    def __init__(
        self, responder: Responder, token_text: TokenText, default_max_tokens: int
    ) -> None:
        self._responder = responder
        self._token_text = token_text
        self._default_max_tokens = default_max_tokens

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Continue prompts, in one piece or as a stream."""
        body = await self._responder.body(request)
        inference, delivery = read_completion(body, self._default_max_tokens)

        def writer(plan: Plan) -> CompletionWriter:
            context = request[CONTEXT]
            head = identity("cmpl-", context.request_id, plan.model)
            texts = LogprobsWriter(self._token_text, plan.model, context, delivery)
            return CompletionWriter(head, delivery, texts)

        return await self._responder.respond(
            request, inference, writer, stream=delivery.stream, no_store=delivery.no_store
        )


class CompletionWriter:
    """Writes one request's answer; see `responder.Writer`."""

    def __init__(self, head: dict[str, Any], delivery: Delivery, logprobs: LogprobsWriter) -> None:
        self._head = head
        self._delivery = delivery
        self._logprobs = logprobs
        self._chunks = Chunks(FORM, **head, with_usage=delivery.include_usage)
        self._opened: set[int] = set()

    async def body(self, choices: Sequence[FinishedChoice], usage: Usage) -> dict[str, Any]:
        """Return a `text_completion`."""
        return {
            "id": self._head["id"],
            "object": FORM.object,
            **self._head,
            "choices": [await self._choice(i, choice) for i, choice in enumerate(choices)],
            "usage": usage_counts(usage),
        }

    async def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Return the chunks of new text: an echoed prompt first, the finish reason last."""
        data = b""
        if choice.index not in self._opened:
            self._opened.add(choice.index)
            data = self._chunks.first(choice.index)
            if choice.echo is not None:
                described = await self._logprobs.echo(choice, delta.prompt_logprobs)
                data += self._chunks.text(choice.index, choice.echo, described)
        if delta.text or delta.logprobs:
            described = await self._logprobs.completion(choice, delta.logprobs)
            data += self._chunks.text(choice.index, delta.text, described)
        if delta.finish_reason is not None:
            data += self._chunks.finish(choice.index, delta.finish_reason)
        return data

    def end(self, usage: Usage) -> bytes:
        """Return what follows the last chunk."""
        counts = self._chunks.usage(usage_counts(usage)) if self._delivery.include_usage else b""
        return counts + sse.DONE

    async def _choice(self, index: int, finished: FinishedChoice) -> dict[str, Any]:
        choice = finished.choice
        echoed = await self._logprobs.echo(choice, finished.prompt_logprobs)
        described = await self._logprobs.completion(choice, finished.logprobs)
        if echoed is not None and described is not None:
            described = joined(echoed, described)
        return {
            "index": index,
            "text": (choice.echo or "") + finished.text,
            "logprobs": described,
            "finish_reason": finished.finish_reason,
            **await self._logprobs.prompt(finished.prompt_logprobs, text_spelling),
        }


def read_completion(body: Any, default_max_tokens: int) -> tuple[InferenceRequest, Delivery]:
    """Read a request's body; raises MeshError that names the field."""
    read = Fields(body)
    prompt_texts, prompt_ids = _prompts(read.required("prompt"))
    prompts = Prompts(prompt_texts, prompt_ids, echo=read.boolean("echo"))
    delivery = read_delivery(read, read.integer("logprobs", 0, MAX_LOGPROBS))
    read.only_default("top_logprobs", 0)
    length_penalty = read_beam_search(read, stream=delivery.stream)
    n = read_n(read)
    best_of = read_best_of(read, n, stream=delivery.stream)
    max_tokens = read.integer("max_tokens", 0, MAX_TOKENS)
    read.only_default("add_special_tokens", True)
    options = read_options(
        read,
        delivery,
        n=n,
        best_of=best_of,
        length_penalty=length_penalty,
        max_tokens=max_tokens,
        echo=prompts.echo,
        prompt_only=max_tokens == 0,
    )
    if len(prompts) * best_of > MAX_SEQUENCES:
        factor = "n" if best_of == n else "best_of"
        raise invalid("prompt", f"prompts times {factor} must be at most {MAX_SEQUENCES}.")
    read.finish()
    return InferenceRequest(prompts, options, default_max_tokens), delivery


def _prompts(value: Any) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    if isinstance(value, str):
        return (text("prompt", value, low=1),), ()
    if not isinstance(value, list):
        raise wrong_type("prompt", "a string or a list", value)
    if not value:
        raise invalid("prompt", "prompt must not be empty.")
    if isinstance(value[0], str):
        return texts("prompt", value, low=1, high=MAX_SEQUENCES), ()
    if isinstance(value[0], list):
        if len(value) > MAX_SEQUENCES:
            raise invalid("prompt", f"prompt must have at most {MAX_SEQUENCES} entries.")
        return (), tuple(token_ids(f"prompt[{i}]", ids) for i, ids in enumerate(value))
    return (), (token_ids("prompt", value),)
