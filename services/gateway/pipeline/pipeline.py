"""The order of a generation request: ground it, tokenize it, fit it, ask the cache, generate."""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from mesh.context import RequestContext
from mesh.errors import invalid
from services.gateway.domain.documents import Passage
from services.gateway.domain.generation import (
    Answer,
    GenerationRequest,
    Model,
    TextDelta,
    find_model,
)
from services.gateway.domain.ports import Retriever, TextGenerator, Tokenizer
from services.gateway.domain.request import (
    Conversation,
    InferenceRequest,
    Message,
    Options,
    Prompts,
    Retrieval,
)
from services.gateway.pipeline import context_window
from services.gateway.pipeline.merge import merged
from services.gateway.pipeline.plan import Choice, Plan, Run, plan_runs
from services.gateway.pipeline.response_cache import Outcome, Policy, ResponseCache


class Pipeline:
    """Turns requests into plans and plans into text.

    Passages leave at least `min_answer_tokens` of the context to the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        retriever: Retriever,
        cache: ResponseCache,
        generator: TextGenerator,
        min_answer_tokens: int = 64,
    ) -> None:
        self._tokenizer = tokenizer
        self._retriever = retriever
        self._cache = cache
        self._generator = generator
        self._min_answer_tokens = min_answer_tokens

    async def plan(
        self, request: InferenceRequest, policy: Policy, tenant: str, context: RequestContext
    ) -> Plan:
        """Do everything that comes before the first token; raises MeshError."""
        model = find_model(self._generator.models(), request.options.model)
        prompt = request.prompt
        passages: tuple[Passage, ...] | None = None
        echoes: Sequence[str] = ()
        if isinstance(prompt, Conversation):
            passages, token_ids = await self._encode_conversation(prompt, model, context)
            if passages is not None:
                options = context_window.shortened(request.options, model, len(token_ids))
                request = dataclasses.replace(request, options=options)
            requests = [_fitted(request, token_ids, prompt.field, model, tenant)]
        else:
            encoded = prompt.token_ids or await self._tokenizer.encode(prompt.texts, context)
            requests = _fitted_prompts(request, prompt, encoded, model, tenant)
            if prompt.echo:
                echoes = prompt.texts or await self._tokenizer.decode(encoded, context)
        runs = plan_runs(requests, request.options, echoes)
        outcome, answer, store = await self._look_up(runs, policy, context)
        return Plan(runs, request.options.n, outcome, store, answer, passages)

    async def run(
        self, plan: Plan, context: RequestContext
    ) -> AsyncGenerator[tuple[Choice, TextDelta], None]:
        """Yield text by choice; the last delta of each has its finish reason and usage.

        Close it to cancel what still runs. A whole answer goes to the cache where the plan says so.
        """
        if plan.cached is not None:
            yield plan.choices[0], _whole(plan.cached)
            return
        parts: list[str] = []
        streams = [self._generator.stream(run.request, context) for run in plan.runs]
        async with aclosing(merged(streams)) as entries:
            async for index, delta in entries:
                run = plan.runs[index]
                if plan.store:
                    parts.append(delta.text)
                    if delta.finish_reason is not None and delta.usage is not None:
                        answer = Answer("".join(parts), delta.finish_reason, delta.usage)
                        self._cache.keep(run.request, answer, context.request_id)
                yield run.choices[delta.sequence], delta

    async def _encode_conversation(
        self, conversation: Conversation, model: Model, context: RequestContext
    ) -> tuple[tuple[Passage, ...] | None, tuple[int, ...]]:
        messages, retrieval = conversation.messages, conversation.retrieval
        if retrieval is None:
            return None, await self._tokenizer.encode_chat(messages, context)
        query = _query(messages, retrieval)
        passages = await self._retriever.search(
            retrieval.collection, query, retrieval.top_k, context
        )
        most_tokens = model.context_length - self._min_answer_tokens
        return await context_window.ground(
            self._tokenizer, messages, passages, most_tokens, context
        )

    async def _look_up(
        self, runs: Sequence[Run], policy: Policy, context: RequestContext
    ) -> tuple[Outcome, Answer | None, bool]:
        """Return what the cache did, what it holds, and whether the new answer goes there."""
        request = runs[0].request
        deterministic = len(runs) == len(runs[0].choices) == 1 and request.is_cacheable
        if not (policy.lookup and deterministic):
            return self._cache.counted(Outcome.BYPASS), None, policy.store and deterministic
        outcome, answer = await self._cache.lookup(request, context)
        return outcome, answer, outcome is Outcome.MISS


def _query(messages: Sequence[Message], retrieval: Retrieval) -> str:
    """Return the request's own query, or what its last user message asks."""
    if retrieval.query is not None:
        return retrieval.query
    questions = [m.content for m in messages if m.role == "user" and m.content.strip()]
    if not questions:
        raise invalid("retrieval.query", "retrieval.query is needed without user message.")
    return questions[-1]


def _fitted_prompts(
    request: InferenceRequest,
    prompts: Prompts,
    encoded: Sequence[tuple[int, ...]],
    model: Model,
    tenant: str,
) -> list[GenerationRequest]:
    requests = []
    for i, token_ids in enumerate(encoded):
        field = f"{prompts.field}[{i}]" if len(encoded) > 1 else prompts.field
        context_window.check_ids(field, token_ids, model)
        requests.append(_fitted(request, token_ids, field, model, tenant))
    return requests


def _fitted(
    request: InferenceRequest, token_ids: tuple[int, ...], field: str, model: Model, tenant: str
) -> GenerationRequest:
    options: Options = request.options
    sampling = context_window.complete(options, model, token_ids, field, request.default_max_tokens)
    return GenerationRequest(
        model, token_ids, sampling, options.stop, options.include_stop, tenant, options.priority
    )


def _whole(answer: Answer) -> TextDelta:
    tokens = answer.usage.completion_tokens
    return TextDelta(answer.text, tokens, answer.finish_reason, answer.usage)
