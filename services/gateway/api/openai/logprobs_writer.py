"""What one request's choices tell of their tokens, in the form of its endpoint."""

from collections.abc import Collection, Sequence
from typing import Any

from mesh.context import RequestContext
from services.gateway.api.openai import logprobs
from services.gateway.api.openai.sampling_fields import Options
from services.gateway.domain.generation import TokenLogprobs
from services.gateway.pipeline.pipeline import Pipeline, Plan


class Teller:
    """Makes `logprobs` of deltas as they come; None where the request asks for none."""

    def __init__(
        self,
        pipeline: Pipeline,
        plan: Plan,
        options: Options,
        context: RequestContext,
        *,
        chat: bool,
    ) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self._options = options
        self._context = context
        self._chat = chat
        self._offsets: dict[int, int] = {}

    async def echo(self, index: int, prompt: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """Of the prompt that a choice repeats; comes before the answer's own."""
        self._offsets[index] = len(self._plan.echo(index))
        count = self._options.logprobs
        if count is None or not self._plan.echoes:
            return None
        first = self._plan.sequences[index].prompt_token_ids[0]
        texts = await self._texts(prompt, {first})
        return logprobs.completion(prompt, texts, 0, count, first=first)

    async def answer(self, index: int, tokens: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """Of the next tokens of a choice."""
        count = self._options.logprobs
        if count is None:
            return None
        texts = await self._texts(tokens)
        if self._chat:
            return logprobs.chat(tokens, texts)
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(texts[one.token_id]) for one in tokens)
        return logprobs.completion(tokens, texts, offset, count)

    async def prompt(self, prompt: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The field `prompt_logprobs`, where the request asks for it."""
        count = self._options.prompt_logprobs
        if count is None:
            return {}
        texts = await self._texts(prompt)
        return {"prompt_logprobs": logprobs.prompt(prompt, texts, count)}

    async def _texts(
        self, tokens: Sequence[TokenLogprobs], others: Collection[int] = ()
    ) -> logprobs.Texts:
        named = logprobs.token_ids(tokens).union(others)
        return await self._pipeline.token_texts(self._plan, named, self._context)
