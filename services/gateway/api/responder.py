"""From a request for text to its response: plan it, then write it whole or as a stream.

What an endpoint's answer looks like is its `Writer`'s; this file knows the order alone.
"""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import web

from mesh.errors import MeshError
from services.gateway.domain.generation import TextDelta, TokenLogprobs, Usage
from services.gateway.domain.request import InferenceRequest
from services.gateway.http.body import read_json
from services.gateway.http.event_stream import EventStream
from services.gateway.http.limits import HttpLimits
from services.gateway.http.metrics import GenerationMeter
from services.gateway.http.middleware import CONTEXT, PRINCIPAL, STARTED
from services.gateway.pipeline.pipeline import Pipeline
from services.gateway.pipeline.plan import Choice, Plan
from services.gateway.pipeline.response_cache import Policy

CACHE_HEADER = "x-infermesh-cache"


class FinishedChoice:
    """A choice's whole text and what is known of its tokens."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self.finish_reason = ""
        self.usage = Usage(0, 0)
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """What was generated, without an echoed prompt."""
        return "".join(self._texts)

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens; the least where there are none."""
        if not self.logprobs:
            return float("-inf")
        return sum(one.logprob for one in self.logprobs) / len(self.logprobs)

    def add(self, delta: TextDelta) -> None:
        """Take the next delta."""
        self._texts.append(delta.text)
        self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.usage = delta.usage or self.usage


class Writer(Protocol):
    """One request's answer in its endpoint's words."""

    async def body(self, choices: Sequence[FinishedChoice], usage: Usage) -> dict[str, Any]:
        """Return the JSON of a whole answer."""
        ...

    async def delta(self, choice: Choice, delta: TextDelta) -> bytes:
        """Return the events of new text; empty where there is nothing to tell."""
        ...

    def end(self, usage: Usage) -> bytes:
        """Return the events after the last text."""
        ...


class Responder:
    """Answers requests for text; `error_event` ends a stream that broke."""

    def __init__(
        self, pipeline: Pipeline, limits: HttpLimits, error_event: Callable[[MeshError], bytes]
    ) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._error_event = error_event

    async def body(self, request: web.Request) -> object:
        """Return the request's JSON."""
        return await read_json(request, self._limits.max_body_bytes)

    async def respond(
        self,
        request: web.Request,
        inference: InferenceRequest,
        writer: Callable[[Plan], Writer],
        *,
        stream: bool,
        no_store: bool,
    ) -> web.StreamResponse:
        """Answer; `writer` makes the plan's writer. Raises MeshError before the first byte."""
        policy = Policy.of(_cache_directives(request), no_store=no_store)
        respond = self._stream if stream else self._whole
        async with self._pipeline.admitted(
            request[PRINCIPAL], inference, policy, request[CONTEXT]
        ) as plan:
            return await respond(request, plan, writer(plan))

    async def _whole(self, request: web.Request, plan: Plan, writer: Writer) -> web.StreamResponse:
        meter = GenerationMeter(request[STARTED])
        choices = [FinishedChoice(choice) for choice in plan.choices]
        async with aclosing(self._pipeline.run(plan, request[CONTEXT])) as entries:
            async for choice, delta in entries:
                meter.delta(choice.index, delta)
                choices[choice.index].add(delta)
        usage = plan.total({choice.choice.index: choice.usage for choice in choices})
        meter.done(usage)
        answered = plan.answered([choice.score for choice in choices])
        body = await writer.body([choices[index] for index in answered], usage)
        return web.json_response(body, headers={CACHE_HEADER: plan.outcome.value})

    async def _stream(self, request: web.Request, plan: Plan, writer: Writer) -> web.StreamResponse:
        meter = GenerationMeter(request[STARTED])
        headers = {CACHE_HEADER: plan.outcome.value}
        stream = EventStream(request, headers, self._limits, self._error_event)
        num_choices = len(plan.choices)
        usages: dict[int, Usage] = {}
        tail = b""
        async with stream, aclosing(self._pipeline.run(plan, request[CONTEXT])) as entries:
            async for choice, delta in entries:
                meter.delta(choice.index, delta)
                data = await writer.delta(choice, delta)
                if delta.finish_reason is not None:
                    usages[choice.index] = delta.usage or Usage(0, 0)
                if len(usages) == num_choices:
                    # the last text and the end of the stream are one write
                    tail = data
                elif data:
                    await stream.send(data)
            usage = plan.total(usages)
            meter.done(usage)
            await stream.send(tail + writer.end(usage))
        return stream.response


def _cache_directives(request: web.Request) -> dict[str, str]:
    """Return the directives of `Cache-Control` by name, in lower case, with their arguments."""
    directives = {}
    for header in request.headers.getall("Cache-Control", ()):
        for directive in header.split(","):
            name, _, argument = directive.partition("=")
            directives[name.strip().lower()] = argument.strip().strip('"')
    return directives
