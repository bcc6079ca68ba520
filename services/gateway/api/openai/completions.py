"""`POST /v1/chat/completions` and `POST /v1/completions`: plain answers and streams."""

import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from services.gateway.api.openai import chat, logprobs
from services.gateway.api.openai.logprobs_writer import Teller
from services.gateway.api.openai.sampling_fields import Options
from services.gateway.domain.generation import TextDelta, TokenLogprobs, Usage
from services.gateway.http import sse
from services.gateway.http.body import read_json
from services.gateway.http.event_stream import EventStream
from services.gateway.http.metrics import GenerationMeter
from services.gateway.http.middleware import CONTEXT, PRINCIPAL, STARTED
from services.gateway.http.sse import Chunks, Dialect
from services.gateway.pipeline.context_window import Passage
from services.gateway.pipeline.pipeline import Pipeline, Plan, answered, total
from services.gateway.pipeline.response_cache import Policy

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
        asked = chat.chat(await read_json(request, self._pace.max_body_bytes))
        request[PRINCIPAL].check_priority(asked.options.priority)
        plan = await self._pipeline.plan_chat(
            asked,
            _policy(request, asked.options),
            request[PRINCIPAL].tenant,
            request[CONTEXT],
        )
        return await self._answer(request, plan, asked.options, sse.CHAT)

    async def text(self, request: web.Request) -> web.StreamResponse:
        """Prompts' continuations."""
        asked = chat.completion(await read_json(request, self._pace.max_body_bytes))
        request[PRINCIPAL].check_priority(asked.options.priority)
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
        return await self._whole(request, plan, options, dialect)

    async def _whole(
        self, request: web.Request, plan: Plan, options: Options, dialect: Dialect
    ) -> web.StreamResponse:
        meter = GenerationMeter(request[STARTED])
        drafts = [_Draft() for _ in plan.sequences]
        async with aclosing(self._pipeline.run(plan, request[CONTEXT])) as entries:
            async for index, delta in entries:
                meter.delta(index, delta)
                drafts[index].add(delta)
        usage = total(plan, {index: draft.usage for index, draft in enumerate(drafts)})
        meter.done(usage)
        teller = self._teller(request, plan, options, dialect)
        identity = _identity(request, plan, dialect)
        kept = answered(plan, [logprobs.mean(draft.logprobs) for draft in drafts])
        answer = {
            "id": identity["id"],
            "object": "chat.completion" if dialect is sse.CHAT else dialect.kind,
            **identity,
            "choices": [
                await _choice(dialect, number, plan.echo(index), drafts[index], index, teller)
                for number, index in enumerate(kept)
            ],
            "usage": _usage(usage),
        }
        if dialect is sse.CHAT:
            answer |= await teller.prompt(drafts[0].prompt_logprobs)
        if plan.passages is not None:
            answer["citations"] = _citations(plan.passages)
        return web.json_response(answer, headers={CACHE_HEADER: plan.outcome.value})

    async def _stream(
        self, request: web.Request, plan: Plan, options: Options, dialect: Dialect
    ) -> web.StreamResponse:
        meter = GenerationMeter(request[STARTED])
        usages: dict[int, Usage] = {}
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
        teller = self._teller(request, plan, options, dialect)
        opened: set[int] = set()
        tail = b""
        async with stream, aclosing(self._pipeline.run(plan, request[CONTEXT])) as entries:
            async for index, delta in entries:
                meter.delta(index, delta)
                data = b""
                if index not in opened:
                    opened.add(index)
                    data = chunks.first(index)
                    if plan.echoes:
                        told = await teller.echo(index, delta.prompt_logprobs)
                        data += chunks.text(index, plan.echo(index), told)
                if delta.text or delta.logprobs:
                    told = await teller.answer(index, delta.logprobs)
                    data += chunks.text(index, delta.text, told)
                if delta.finish_reason is not None:
                    usages[index] = delta.usage or Usage(0, 0)
                    data += chunks.finish(index, delta.finish_reason)
                    if len(usages) == len(plan.sequences):
                        tail = data
                        continue
                if data:
                    await stream.send(data)
            usage = total(plan, usages)
            meter.done(usage)
            if options.include_usage:
                tail += chunks.usage(_usage(usage))
            await stream.send(tail + sse.DONE)
        return stream.response

    def _teller(
        self, request: web.Request, plan: Plan, options: Options, dialect: Dialect
    ) -> Teller:
        is_chat = dialect is sse.CHAT
        return Teller(self._pipeline, plan, options, request[CONTEXT], chat=is_chat)


class _Draft:
    """One sequence as far as it has come."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self.reason = ""
        self.usage = Usage(0, 0)

    def add(self, delta: TextDelta) -> None:
        self.texts.append(delta.text)
        self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs
        if delta.finish_reason is not None:
            self.reason = delta.finish_reason
            self.usage = delta.usage or self.usage


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


async def _choice(
    dialect: Dialect, number: int, echo: str, draft: _Draft, index: int, teller: Teller
) -> dict[str, Any]:
    text = echo + "".join(draft.texts)
    said: dict[str, Any] = {"text": text}
    if dialect is sse.CHAT:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}}
    prompt = await teller.echo(index, draft.prompt_logprobs)
    told = await teller.answer(index, draft.logprobs)
    if prompt is not None and told is not None:
        told = logprobs.joined(prompt, told)
    choice = {"index": number, **said, "logprobs": told, "finish_reason": draft.reason}
    if dialect is not sse.CHAT:
        choice |= await teller.prompt(draft.prompt_logprobs)
    return choice


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
