"""The order of a generation request: admit, ground, tokenize, fit, ask the cache, generate."""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from mesh.context import RequestContext
from mesh.errors import Code, MeshError, invalid
from services.gateway.access.admission import Admission
from services.gateway.domain.documents import Passage
from services.gateway.domain.generation import (
    Answer,
    ChatPrompt,
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
    Principal,
    Prompts,
    Retrieval,
)
from services.gateway.pipeline import context_window
from services.gateway.pipeline.merge import merged
from services.gateway.pipeline.plan import Choice, Plan, plan_runs
from services.gateway.pipeline.request_memo import MemoKey
from services.gateway.pipeline.response_cache import Outcome, Policy, ResponseCache
from services.gateway.pipeline.teller import Teller, whole


class Pipeline:
    """Turns requests into plans and plans into text.

    Passages leave at least `min_answer_tokens` of the context to the answer; there are
    `default_top_k` at most where a request does not say.
    """

    def __init__(
        self,
        admission: Admission,
        tokenizer: Tokenizer,
        retriever: Retriever,
        cache: ResponseCache,
        generator: TextGenerator,
        min_answer_tokens: int = 64,
        default_top_k: int = 1,
    ) -> None:
        self._admission = admission
        self._tokenizer = tokenizer
        self._retriever = retriever
        self._cache = cache
        self._generator = generator
        self._min_answer_tokens = min_answer_tokens
        self._default_top_k = default_top_k

    @asynccontextmanager
    async def admitted(
        self,
        principal: Principal,
        request: InferenceRequest,
        policy: Policy,
        context: RequestContext,
    ) -> AsyncIterator[Plan]:
        """Hold a permit for the request, from before any work to the end of the block.

        Yields the plan: everything before the first token is done. Raises MeshError; a full queue
        refuses only what the cache does not hold.
        """
        try:
            permit = self._admission.admit(principal, request)
        except MeshError as refusal:
            plan = await self._recalled(refusal, principal.tenant, request, policy, context)
        else:
            with permit:
                plan = await self._plan(permit.model, request, policy, principal.tenant, context)
                if plan.cached is None:
                    permit.correct([run.request for run in plan.runs])
                    yield dataclasses.replace(plan, reservation=permit.reservation)
                    return
        yield plan

    async def _recalled(
        self,
        refusal: MeshError,
        tenant: str,
        request: InferenceRequest,
        policy: Policy,
        context: RequestContext,
    ) -> Plan:
        """Return the cached answer to a request whose tokens are known; else raise the refusal."""
        if refusal.code is not Code.RESOURCE_EXHAUSTED or not policy.lookup:
            raise refusal
        model = find_model(self._generator.models(), request.options.model)
        key = MemoKey.of(tenant, model, request)
        known = None if key is None else self._cache.recall(key)
        if known is None:
            raise refusal
        outcome, answer = await self._cache.lookup(known, context, key)
        if answer is None:
            raise refusal
        echoes = _echoed_texts(request.prompt)
        runs = plan_runs([known], request.options, echoes)
        options = request.options
        return Plan(runs, options.n, outcome, cached=answer, prompt_only=options.prompt_only)

    async def _plan(
        self,
        model: Model,
        request: InferenceRequest,
        policy: Policy,
        tenant: str,
        context: RequestContext,
    ) -> Plan:
        prompt = request.prompt
        passages: tuple[Passage, ...] | None = None
        echoes = _echoed_texts(prompt)
        answer_start = ""
        if isinstance(prompt, Conversation):
            passages, chat = await self._encode_conversation(prompt, model, context)
            if passages is not None:
                options = context_window.copying(request.options)
                options = context_window.shortened(options, model, len(chat))
                request = dataclasses.replace(request, options=options)
            fitted = _fitted(request, chat.token_ids, prompt.field, model, tenant)
            requests = [dataclasses.replace(fitted, answer_prefix=chat.answer_prefix)]
            answer_start = chat.answer_start
        else:
            encoded = prompt.token_ids or await self._tokenizer.encode(prompt.texts, context)
            requests = _fitted_prompts(request, prompt, encoded, model, tenant)
            if prompt.echo and not echoes:
                echoes = await self._tokenizer.decode(encoded, context)
        runs = plan_runs(requests, request.options, echoes)
        num_answered = request.options.n
        if not (runs[0].request.is_cacheable and len(runs) == len(runs[0].choices) == 1):
            return Plan(
                runs,
                num_answered,
                self._cache.counted(Outcome.BYPASS),
                passages=passages,
                answer_start=answer_start,
                prompt_only=request.options.prompt_only,
            )
        key = MemoKey.of(tenant, model, request)
        plan = Plan(
            runs,
            num_answered,
            Outcome.BYPASS,
            policy.store,
            passages=passages,
            answer_start=answer_start,
            key=key,
            prompt_only=request.options.prompt_only,
        )
        return await self._looked_up(plan, policy, context)

    async def _looked_up(self, plan: Plan, policy: Policy, context: RequestContext) -> Plan:
        """Return the plan with the cached answer; store a new one only where the cache works."""
        if not policy.lookup:
            self._cache.counted(plan.outcome)
            return plan
        outcome, answer = await self._cache.lookup(plan.runs[0].request, context, plan.key)
        store = outcome is Outcome.MISS
        return dataclasses.replace(plan, outcome=outcome, store=store, cached=answer)

    async def run(
        self, plan: Plan, context: RequestContext
    ) -> AsyncGenerator[tuple[Choice, TextDelta], None]:
        """Yield text by choice; the last delta of each has its finish reason and usage.

        Close it to cancel what still runs. A whole answer goes to the cache where the plan says so.
        """
        teller = Teller(plan)
        if plan.cached is not None:
            (choice,) = plan.choices
            yield choice, teller.told(choice, whole(plan.cached))
            return
        parts: list[str] = []
        streams = [
            self._generator.stream(run.request, context, plan.reservation) for run in plan.runs
        ]
        async with aclosing(merged(streams)) as entries:
            async for index, delta in entries:
                run = plan.runs[index]
                if plan.store:
                    parts.append(delta.text)
                    if delta.finish_reason is not None and delta.usage is not None:
                        answer = Answer("".join(parts), delta.finish_reason, delta.usage)
                        self._cache.keep(run.request, answer, context.request_id, plan.key)
                choice = run.choices[delta.sequence]
                yield choice, teller.told(choice, delta)

    async def _encode_conversation(
        self, conversation: Conversation, model: Model, context: RequestContext
    ) -> tuple[tuple[Passage, ...] | None, ChatPrompt]:
        messages, retrieval = conversation.messages, conversation.retrieval
        if retrieval is None:
            return None, await self._tokenizer.encode_chat(messages, context)
        query = _query(messages, retrieval)
        top_k = retrieval.top_k or self._default_top_k
        passages = await self._retriever.search(retrieval.collection, query, top_k, context)
        most_tokens = model.context_length - self._min_answer_tokens
        return await context_window.ground(
            self._tokenizer, messages, passages, most_tokens, context
        )


def _query(messages: Sequence[Message], retrieval: Retrieval) -> str:
    """Return the request's own query, or what its last user message asks."""
    if retrieval.query is not None:
        return retrieval.query
    questions = [m.content for m in messages if m.role == "user" and m.content.strip()]
    if not questions:
        raise invalid("retrieval.query", "retrieval.query is needed without user message.")
    return questions[-1]


def _echoed_texts(prompt: Conversation | Prompts) -> Sequence[str]:
    """Return the texts that the answer repeats, where the request has them as such."""
    return prompt.texts if isinstance(prompt, Prompts) and prompt.echo else ()


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
    options = request.options
    sampling = context_window.complete(options, model, token_ids, field, request.default_max_tokens)
    return GenerationRequest(
        model, token_ids, sampling, options.stop, options.include_stop, tenant, options.priority
    )
