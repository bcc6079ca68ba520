"""The order of a generation request: ground it, tokenize it, fit it, ask the cache, generate.

A domain module: takes the mesh's services as client objects and knows neither HTTP nor gRPC.
"""

import dataclasses
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from mesh.context import RequestContext
from mesh.errors import invalid, unavailable
from services.gateway.api.openai.chat import ChatRequest, CompletionRequest, Message, Retrieval
from services.gateway.api.openai.sampling_fields import Options
from services.gateway.domain import errors
from services.gateway.domain.generation import (
    GenerationRequest,
    Model,
    Sampling,
    TextDelta,
    TextGenerator,
    Usage,
)
from services.gateway.pipeline import context_window
from services.gateway.pipeline.context_window import Passage, Tokenizer
from services.gateway.pipeline.merge import merged
from services.gateway.pipeline.response_cache import Answer, Answers, Outcome, Policy
from services.gateway.pipeline.token_text import Vocabulary


class Retriever(Protocol):
    """The retriever service's client; raises MeshError."""

    async def search(
        self, collection: str, query: str, top_k: int, context: RequestContext
    ) -> list[Passage]:
        """The nearest passages, best first."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Token counts that hold where neither the request nor its model names one."""

    chat_max_tokens: int = 1024
    completion_max_tokens: int = 256
    min_answer_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """A request ready to run: one sequence per choice, or the cached answer to the only one.

    Each prompt has `drawn_per_prompt` sequences, of which `choices_per_prompt` are answered. The
    choices of a beam search all have its request as their sequence.
    `passages` are those in the prompt, in its order; None where none were asked for. `echoes`
    holds the text of each prompt where it is to be repeated.
    """

    sequences: tuple[GenerationRequest, ...]
    drawn_per_prompt: int
    choices_per_prompt: int
    outcome: Outcome
    store: bool
    cached: Answer | None = None
    passages: tuple[Passage, ...] | None = None
    echoes: tuple[str, ...] = ()

    def echo(self, index: int) -> str:
        """What the choice of a sequence repeats of its prompt."""
        return self.echoes[index // self.drawn_per_prompt] if self.echoes else ""

    @property
    def model(self) -> Model:
        """The model of all sequences."""
        return self.sequences[0].model

    @property
    def choices_per_run(self) -> int:
        """How many choices come of one run of a sequence."""
        return self.sequences[0].sampling.n


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
        self._vocabulary = Vocabulary(tokenizer)
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
            passages, prompt = await context_window.ground(
                self._tokenizer, request.messages, found, most, context
            )
            options = context_window.shortened(options, model, len(prompt))
        most_tokens = self._limits.chat_max_tokens
        sampling = context_window.sampling(options, model, prompt, "messages", most_tokens)
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
            context_window.check_ids(field, prompt, model)
            most_tokens = self._limits.completion_max_tokens
            sampling = context_window.sampling(options, model, prompt, field, most_tokens)
            sequences += _choices(options, model, prompt, sampling, tenant)
        plan = await self._planned(sequences, options, policy, context)
        if not options.echo:
            return plan
        texts = request.texts or await self._tokenizer.decode(prompts, context)
        return dataclasses.replace(plan, echoes=tuple(texts))

    async def token_texts(
        self, plan: Plan, token_ids: Iterable[int], context: RequestContext
    ) -> Mapping[int, str]:
        """The text of single tokens by id; raises MeshError."""
        return await self._vocabulary.texts(plan.model, token_ids, context)

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
        runs = plan.sequences[:: plan.choices_per_run]
        streams = [self._generator.stream(sequence, context) for sequence in runs]
        async with aclosing(merged(streams)) as entries:
            async for run, delta in entries:
                if plan.store:
                    parts.append(delta.text)
                    if delta.finish_reason is not None and delta.usage is not None:
                        answer = Answer("".join(parts), delta.finish_reason, delta.usage)
                        self._answers.keep(plan.sequences[0], answer, context.request_id)
                yield run * plan.choices_per_run + delta.sequence, delta

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
        # the cache keeps texts alone
        only_text = not any(sequence.sampling.asks_logprobs for sequence in held)
        deterministic = held[0].sampling.temperature == 0 and len(held) == 1 and only_text
        store = policy.store and deterministic
        num_drawn = options.best_of if options.beams is None else options.n
        if not (policy.lookup and deterministic):
            outcome = self._answers.counted(Outcome.BYPASS)
            return Plan(held, num_drawn, options.n, outcome, store)
        outcome, answer = await self._answers.lookup(held[0], context)
        return Plan(held, num_drawn, options.n, outcome, outcome is Outcome.MISS, answer)


def total(plan: Plan, usages: dict[int, Usage]) -> Usage:
    """The counts of a whole request by its choices' counts; a prompt with n choices counts once."""
    prompts = [usage for index, usage in usages.items() if index % plan.drawn_per_prompt == 0]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in prompts),
    )


def answered(plan: Plan, scores: Sequence[float]) -> list[int]:
    """The sequences that become choices: of each prompt the best by score, best first."""
    drawn = range(plan.drawn_per_prompt)
    if plan.choices_per_prompt == len(drawn):
        return list(range(len(plan.sequences)))
    kept: list[int] = []
    for first in range(0, len(plan.sequences), len(drawn)):
        ranked = sorted(drawn, key=lambda i: -scores[first + i])
        kept += [first + i for i in ranked[: plan.choices_per_prompt]]
    return kept


def _whole(answer: Answer) -> TextDelta:
    tokens = answer.usage.completion_tokens
    return TextDelta(answer.text, tokens, answer.finish_reason, answer.usage)


def _choices(
    options: Options, model: Model, prompt: tuple[int, ...], sampling: Sampling, tenant: str
) -> list[GenerationRequest]:
    """One sequence per draw; seeded draws count on from the seed, so that they differ.

    A beam search is one request, which comes once per choice.
    """
    if options.beams is not None:
        search = GenerationRequest(
            model, prompt, sampling, options.stop, options.include_stop, tenant
        )
        return [search] * options.n
    choices = []
    for i in range(options.best_of):
        seed = None if sampling.seed is None else (sampling.seed + i) % 2**64
        drawn = dataclasses.replace(sampling, seed=seed)
        request = GenerationRequest(
            model, prompt, drawn, options.stop, options.include_stop, tenant, options.priority
        )
        choices.append(request)
    return choices
