"""The order of a generation request: ground it, tokenize it, fit it, ask the cache, generate.

A domain module: takes the mesh's services as client objects and knows neither HTTP nor gRPC.
"""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from mesh.context import RequestContext
from mesh.errors import invalid, unavailable
from services.gateway import errors, fitting
from services.gateway.answers import Answer, Answers, Outcome, Policy
from services.gateway.fitting import Passage, Tokenizer
from services.gateway.generation import (
    GenerationRequest,
    Model,
    Sampling,
    TextDelta,
    TextGenerator,
    Usage,
)
from services.gateway.merge import merged
from services.gateway.openai import ChatRequest, CompletionRequest, Message, Retrieval
from services.gateway.options import Options


class Retriever(Protocol):
    """The retriever service's client; raises MeshError."""

    async def search(
        self, collection: str, query: str, top_k: int, context: RequestContext
    ) -> list[Passage]:
        """The nearest passages, best first."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Token counts that hold where the request names none."""

    chat_max_tokens: int = 1024
    completion_max_tokens: int = 256
    min_answer_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """A request ready to run: one sequence per choice, or the cached answer to the only one.

    `passages` are those in the prompt, in its order; None where none were asked for.
    """

    sequences: tuple[GenerationRequest, ...]
    choices_per_prompt: int
    outcome: Outcome
    store: bool
    cached: Answer | None = None
    passages: tuple[Passage, ...] | None = None

    @property
    def model(self) -> Model:
        """The model of all sequences."""
        return self.sequences[0].model


class Pipeline:
    """Turns requests into plans and plans into text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        retriever: Retriever,
        answers: Answers,
        generator: TextGenerator,
        limits: Limits,
    ) -> None:
        self._tokenizer = tokenizer
        self._retriever = retriever
        self._answers = answers
        self._generator = generator
        self._limits = limits

    async def plan_chat(
        self, request: ChatRequest, policy: Policy, tenant: str, context: RequestContext
    ) -> Plan:
        """Everything before the first token of a chat; raises MeshError."""
        options = request.options
        model = self._model(options.model)
        passages: tuple[Passage, ...] | None = None
        if request.retrieval is None:
            prompt = await self._tokenizer.encode_chat(request.messages, context)
        else:
            found = await self._search(request.messages, request.retrieval, context)
            most = model.context_length - self._limits.min_answer_tokens
            passages, prompt = await fitting.ground(
                self._tokenizer, request.messages, found, most, context
            )
            options = fitting.shortened(options, model, len(prompt))
        most_tokens = self._limits.chat_max_tokens
        sampling = fitting.sampling(options, model, prompt, "messages", most_tokens)
        sequences = _choices(options, model, prompt, sampling, tenant)
        plan = await self._planned(sequences, options, policy, context)
        return dataclasses.replace(plan, passages=passages)

    async def plan_completion(
        self, request: CompletionRequest, policy: Policy, tenant: str, context: RequestContext
    ) -> Plan:
        """Everything before the first token of a completion; raises MeshError."""
        options = request.options
        model = self._model(options.model)
        prompts: Sequence[tuple[int, ...]] = request.token_ids
        if request.texts:
            prompts = await self._tokenizer.encode(request.texts, context)
        sequences: list[GenerationRequest] = []
        for i, prompt in enumerate(prompts):
            field = f"prompt[{i}]" if len(prompts) > 1 else "prompt"
            fitting.check_ids(field, prompt, model)
            most_tokens = self._limits.completion_max_tokens
            sampling = fitting.sampling(options, model, prompt, field, most_tokens)
            sequences += _choices(options, model, prompt, sampling, tenant)
        return await self._planned(sequences, options, policy, context)

    async def run(
        self, plan: Plan, context: RequestContext
    ) -> AsyncGenerator[tuple[int, TextDelta], None]:
        """Text by choice; the last delta of each choice has its finish reason and usage.

        Close it to cancel what still runs. A whole answer goes to the cache where the plan says so.
        """
        if plan.cached is not None:
            yield 0, _whole(plan.cached)
            return
        parts: list[str] = []
        streams = [self._generator.stream(sequence, context) for sequence in plan.sequences]
        async with aclosing(merged(streams)) as entries:
            async for entry in entries:
                delta = entry[1]
                if plan.store:
                    parts.append(delta.text)
                    if delta.finish_reason is not None and delta.usage is not None:
                        answer = Answer("".join(parts), delta.finish_reason, delta.usage)
                        self._answers.keep(plan.sequences[0], answer, context.request_id)
                yield entry

    def _model(self, name: str) -> Model:
        models = self._generator.models()
        if not models:
            raise unavailable("No generator is ready.")
        for model in models:
            if model.id == name:
                return model
        raise errors.model_not_found(name)

    async def _search(
        self, messages: Sequence[Message], retrieval: Retrieval, context: RequestContext
    ) -> list[Passage]:
        query = retrieval.query
        if query is None:
            asked = [m.content for m in messages if m.role == "user" and m.content.strip()]
            if not asked:
                raise invalid("retrieval.query", "retrieval.query is needed without user message.")
            query = asked[-1]
        return await self._retriever.search(retrieval.collection, query, retrieval.top_k, context)

    async def _planned(
        self,
        sequences: Sequence[GenerationRequest],
        options: Options,
        policy: Policy,
        context: RequestContext,
    ) -> Plan:
        held = tuple(sequences)
        deterministic = options.temperature == 0 and len(held) == 1
        store = policy.store and deterministic
        if not (policy.lookup and deterministic):
            return Plan(held, options.n, self._answers.counted(Outcome.BYPASS), store)
        outcome, answer = await self._answers.lookup(held[0], context)
        return Plan(held, options.n, outcome, outcome is Outcome.MISS, answer)


def total(plan: Plan, usages: dict[int, Usage]) -> Usage:
    """The counts of a whole request by its choices' counts; a prompt with n choices counts once."""
    prompts = [usage for index, usage in usages.items() if index % plan.choices_per_prompt == 0]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in prompts),
    )


def _whole(answer: Answer) -> TextDelta:
    tokens = answer.usage.completion_tokens
    return TextDelta(answer.text, tokens, answer.finish_reason, answer.usage)


def _choices(
    options: Options, model: Model, prompt: tuple[int, ...], sampling: Sampling, tenant: str
) -> list[GenerationRequest]:
    """One sequence per choice; seeded choices count on from the seed, so that they differ."""
    choices = []
    for i in range(options.n):
        seed = None if sampling.seed is None else (sampling.seed + i) % 2**64
        drawn = dataclasses.replace(sampling, seed=seed)
        request = GenerationRequest(
            model, prompt, drawn, options.stop, options.include_stop, tenant
        )
        choices.append(request)
    return choices
