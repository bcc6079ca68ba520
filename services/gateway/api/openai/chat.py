"""`POST /v1/chat/completions`: a conversation's next turn."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from mesh.errors import invalid
from services.gateway.api.fields import Fields, text, wrong_type
from services.gateway.api.openai.chunks import ChunkForm, Chunks
from services.gateway.api.openai.logprobs import LogprobsWriter, chat_spelling
from services.gateway.api.openai.objects import citations, identity, usage_counts
from services.gateway.api.openai.options import (
    Delivery,
    read_beam_search,
    read_best_of,
    read_delivery,
    read_n,
    read_options,
)
from services.gateway.api.openai.sampling_fields import MAX_LOGPROBS, MAX_TOKENS
from services.gateway.api.responder import FinishedChoice, Responder
from services.gateway.domain.generation import TextDelta, Usage
from services.gateway.domain.request import Conversation, InferenceRequest, Message, Retrieval
from services.gateway.http import sse
from services.gateway.http.middleware import CONTEXT
from services.gateway.pipeline.plan import Choice, Plan
from services.gateway.pipeline.token_text import TokenText

MAX_MESSAGES = 4096
FORM = ChunkForm(
    "chat.completion.chunk",
    '"delta":{"content":',
    "}",
    '"delta":{"role":"assistant","content":""}',
    '"delta":{}',
)

# vLLM's, taken with the values that change nothing
UNSUPPORTED_UNLESS_DEFAULT: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "continue_final_message": (False,),
    "documents": (),
    "chat_template": (),
    "chat_template_kwargs": (),
}
# what clients send back of an assistant's message that they received
_ASSISTANT_EXTRAS = ("refusal", "annotations", "audio", "tool_calls", "function_call", "citations")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ChatCompletions:
    """The endpoint. An answer without max_tokens has `default_max_tokens` at most."""

    def __init__(
        self, responder: Responder, token_text: TokenText, default_max_tokens: int
    ) -> None:
        self._responder = responder
        self._token_text = token_text
        self._default_max_tokens = default_max_tokens

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Answer a conversation, in one piece or as a stream."""
        body = await self._responder.body(request)
        inference, delivery = read_chat(body, self._default_max_tokens)

        def writer(plan: Plan) -> ChatWriter:
            context = request[CONTEXT]
            head = identity("chatcmpl-", context.request_id, plan.model)
            texts = LogprobsWriter(self._token_text, plan.model, context, delivery)
            return ChatWriter(plan, head, delivery, texts)

        return await self._responder.respond(
            request, inference, writer, stream=delivery.stream, no_store=delivery.no_store
        )


class ChatWriter:
    """Writes one request's answer; see `responder.Writer`."""

    def __init__(
        self, plan: Plan, head: dict[str, Any], delivery: Delivery, logprobs: LogprobsWriter
    ) -> None:
        self._head = head
        self._delivery = delivery
        self._logprobs = logprobs
        self._citations = None if plan.passages is None else citations(plan.passages)
        self._chunks = Chunks(
            FORM, **head, with_usage=delivery.include_usage, citations=self._citations
        )
        self._opened: set[int] = set()

    async def body(self, choices: Sequence[FinishedChoice], usage: Usage) -> dict[str, Any]:
        """Return a `chat.completion`."""
        body = {
            "id": self._head["id"],
            "object": "chat.completion",
            **self._head,
            "choices": [await self._choice(i, choice) for i, choice in enumerate(choices)],
            "usage": usage_counts(usage),
            **await self._logprobs.prompt(choices[0].prompt_logprobs, chat_spelling),
        }
        if self._citations is not None:
            body["citations"] = self._citations
        return body

    async def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Return the chunks of new text: the role first, the finish reason last."""
        data = b""
        if choice.index not in self._opened:
            self._opened.add(choice.index)
            data = self._chunks.first(choice.index)
        if delta.text or delta.logprobs:
            described = await self._logprobs.chat(delta.logprobs)
            data += self._chunks.text(choice.index, delta.text, described)
        if delta.finish_reason is not None:
            data += self._chunks.finish(choice.index, delta.finish_reason)
        return data

    def end(self, usage: Usage) -> bytes:
        """Return what follows the last chunk."""
        counts = self._chunks.usage(usage_counts(usage)) if self._delivery.include_usage else b""
        return counts + sse.DONE

    async def _choice(self, index: int, choice: FinishedChoice) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": await self._logprobs.chat(choice.logprobs),
            "finish_reason": choice.finish_reason,
        }


def read_chat(body: Any, default_max_tokens: int) -> tuple[InferenceRequest, Delivery]:
    """Read a request's body; raises MeshError that names the field."""
    read = Fields(body)
    messages = read.required("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "a list", messages)
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid("messages", f"messages must have 1 to {MAX_MESSAGES} entries.")
    turns = tuple(_message(m, f"messages[{i}]") for i, m in enumerate(messages))
    conversation = Conversation(turns, _retrieval(read))
    max_tokens, max_tokens_field = _max_tokens(read)
    delivery = read_delivery(read, _logprobs(read))
    length_penalty = read_beam_search(read, stream=delivery.stream)
    n = best_of = read_n(read)
    if length_penalty is not None:
        best_of = read_best_of(read, n, stream=delivery.stream)
    read.only_default("best_of", 1)
    for field, values in UNSUPPORTED_UNLESS_DEFAULT.items():
        read.only_default(field, *values)
    options = read_options(
        read,
        delivery,
        n=n,
        best_of=best_of,
        length_penalty=length_penalty,
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,
    )
    read.finish()
    return InferenceRequest(conversation, options, default_max_tokens), delivery


def _max_tokens(read: Fields) -> tuple[int | None, str]:
    value = read.integer("max_tokens", 1, MAX_TOKENS)
    newer = read.integer("max_completion_tokens", 1, MAX_TOKENS)
    if newer is None:
        return value, "max_tokens"
    if value not in (None, newer):
        raise invalid("max_completion_tokens", "max_completion_tokens contradicts max_tokens.")
    return newer, "max_completion_tokens"


def _logprobs(read: Fields) -> int | None:
    wanted = read.boolean("logprobs")
    top = read.integer("top_logprobs", 0, MAX_LOGPROBS)
    if top and not wanted:
        raise invalid("top_logprobs", "top_logprobs is only allowed with `logprobs: true`.")
    return (top or 0) if wanted else None


def _message(value: Any, path: str) -> Message:
    read = Fields(value, path)
    role = text(f"{path}.role", read.required("role"))
    if role not in _ROLES:
        listed = ", ".join(f"`{r}`" for r in _ROLES)
        raise invalid(f"{path}.role", f"{path}.role must be one of {listed}.")
    content = _content(read.required("content"), f"{path}.content")
    name = read.text("name", high=256) or ""
    if role == "assistant":
        for extra in _ASSISTANT_EXTRAS:
            read.only_default(extra)
    read.finish()
    return Message(_ROLES[role], content, name)


def _content(value: Any, path: str) -> str:
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise wrong_type(path, "a string or a list of parts", value)
        return text(path, value)
    texts = []
    for i, entry in enumerate(value):
        part = Fields(entry, f"{path}[{i}]")
        kind = text(part.name("type"), part.required("type"))
        if kind != "text":
            raise invalid(part.name("type"), f"{part.name('type')} must be `text`.")
        texts.append(text(part.name("text"), part.required("text")))
        part.ignore("prompt_cache_breakpoint")
        part.finish()
    return "".join(texts)


def _retrieval(read: Fields) -> Retrieval | None:
    value = read.take("retrieval")
    if value is None:
        return None
    inner = Fields(value, "retrieval")
    collection = text(inner.name("collection"), inner.required("collection"), low=1)
    top_k = inner.integer("top_k", 1, 100)
    query = inner.text("query", low=1)
    inner.finish()
    return Retrieval(collection, top_k, query)
