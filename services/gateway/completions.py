"""`POST /v1/chat/completions` and `POST /v1/completions`: plain answers and streams."""

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from services.gateway import openai, sse
from services.gateway.answers import Policy
from services.gateway.body import read_json
from services.gateway.edge import CONTEXT, PRINCIPAL, STARTED
from services.gateway.fitting import Passage
from services.gateway.generation import TextDelta, Usage
from services.gateway.metrics import GenerationMeter
from services.gateway.options import Options
from services.gateway.pipeline import Pipeline, Plan, total
from services.gateway.sse import Chunks, Dialect
from services.gateway.stream import EventStream

CACHE_HEADER = "x-infermesh-cache"


@dataclass(frozen=True, slots=True)
class Pace:
    """Limits of reading and writing, in bytes and seconds."""

    max_body_bytes: int
    keep_alive_s: float
    write_timeout_s: float


class Completions:
    """Answers generation requests through the pipeline."""

    def __init__(self, pipeline: Pipeline, pace: Pace) -> None:
        self._pipeline = pipeline
        self._pace = pace

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """A conversation's next turn."""
        asked = openai.chat(await read_json(request, self._pace.max_body_bytes))
        plan = await self._pipeline.plan_chat(
            asked,
            _policy(request, asked.options),
            request[PRINCIPAL].tenant,
            request[CONTEXT],
        )
        return await self._answer(request, plan, asked.options, sse.CHAT)

    async def text(self, request: web.Request) -> web.StreamResponse:
        """Prompts' continuations."""
        asked = openai.completion(await read_json(request, self._pace.max_body_bytes))
        plan = await self._pipeline.plan_completion(
            asked,
            _policy(request, asked.options),
            request[PRINCIPAL].tenant,
            request[CONTEXT],
        )
        return await self._answer(request, plan, asked.options, sse.TEXT)

    async def _answer(
        self, request: web.Request, plan: Plan, options: Options, dialect: Dialect
    ) -> web.StreamResponse:
        if options.stream:
            return await self._stream(request, plan, options, dialect)
        return await self._whole(request, plan, dialect)

    async def _whole(
        self, request: web.Request, plan: Plan, dialect: Dialect
    ) -> web.StreamResponse:
        meter = GenerationMeter(request[STARTED])
        tally = _Tally()
        texts: list[list[str]] = [[] for _ in plan.sequences]
        async with aclosing(self._pipeline.run(plan, request[CONTEXT])) as entries:
            async for index, delta in entries:
                meter.delta(index, delta)
                tally.add(index, delta)
                texts[index].append(delta.text)
        usage = total(plan, tally.usages)
        meter.done(usage)
        identity = _identity(request, plan, dialect)
        answer = {
            "id": identity["id"],
            "object": "chat.completion" if dialect is sse.CHAT else dialect.kind,
            **identity,
            "choices": [
                _choice(dialect, index, "".join(parts), tally.reasons[index])
                for index, parts in enumerate(texts)
            ],
            "usage": _usage(usage),
        }
        if plan.passages is not None:
            answer["citations"] = _citations(plan.passages)
        return web.json_response(answer, headers={CACHE_HEADER: plan.outcome.value})

    async def _stream(
        self, request: web.Request, plan: Plan, options: Options, dialect: Dialect
    ) -> web.StreamResponse:
        meter = GenerationMeter(request[STARTED])
        tally = _Tally()
        chunks = Chunks(
            dialect,
            **_identity(request, plan, dialect),
            with_usage=options.include_usage,
            citations=None if plan.passages is None else _citations(plan.passages),
        )
        stream = EventStream(
            request,
            {CACHE_HEADER: plan.outcome.value},
            keep_alive_s=self._pace.keep_alive_s,
            write_timeout_s=self._pace.write_timeout_s,
        )
        opened: set[int] = set()
        tail = b""
        async with stream, aclosing(self._pipeline.run(plan, request[CONTEXT])) as entries:
            async for index, delta in entries:
                meter.delta(index, delta)
                data = chunks.text(index, delta.text) if delta.text else b""
                if index not in opened:
                    opened.add(index)
                    data = chunks.first(index) + data
                if delta.finish_reason is not None:
                    tally.add(index, delta)
                    data += chunks.finish(index, delta.finish_reason)
                    if len(tally.reasons) == len(plan.sequences):
                        tail = data
                        continue
                if data:
                    await stream.send(data)
            usage = total(plan, tally.usages)
            meter.done(usage)
            if options.include_usage:
                tail += chunks.usage(_usage(usage))
            await stream.send(tail + sse.DONE)
        return stream.response


class _Tally:
    """Finish reasons and counts by choice."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}
        self.usages: dict[int, Usage] = {}

    def add(self, index: int, delta: TextDelta) -> None:
        if delta.finish_reason is not None:
            self.reasons[index] = delta.finish_reason
            self.usages[index] = delta.usage or Usage(0, 0)


def _policy(request: web.Request, options: Options) -> Policy:
    directives = frozenset(
        directive.split("=", 1)[0].strip().lower()
        for header in request.headers.getall("Cache-Control", ())
        for directive in header.split(",")
    )
    return Policy.of(directives, no_store=options.no_store)


def _identity(request: web.Request, plan: Plan, dialect: Dialect) -> dict[str, Any]:
    prefix = "chatcmpl-" if dialect is sse.CHAT else "cmpl-"
    return {
        "id": prefix + request[CONTEXT].request_id,
        "created": int(time.time()),
        "model": plan.model.id,
        "system_fingerprint": "fp_" + plan.model.revision[:10],
    }


def _choice(dialect: Dialect, index: int, text: str, reason: str) -> dict[str, Any]:
    said: dict[str, Any] = {"text": text}
    if dialect is sse.CHAT:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}}
    return {"index": index, **said, "logprobs": None, "finish_reason": reason}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
    }


def _citations(passages: tuple[Passage, ...]) -> list[dict[str, Any]]:
    return [
        {"id": p.id, "source": p.source, "score": p.score, "start": p.start, "end": p.end}
        for p in passages
    ]
