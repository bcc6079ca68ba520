"""When an answer may come from the cache or go there; the cache never delays or fails one."""

import asyncio
import enum
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import Counter

from mesh.context import RequestContext
from mesh.errors import MeshError
from services.gateway.domain.generation import Answer, GenerationRequest
from services.gateway.domain.ports import AnswerCache
from services.gateway.pipeline.request_memo import MemoKey, RequestMemo

logger = logging.getLogger(__name__)

MAX_STORES = 256
STORE_LIMIT_S = 5.0
# a cache that failed is left alone for so long, that requests do not wait for it in turn
REST_S = 1.0

_outcomes = Counter(
    "infermesh_gateway_cache_total", "Generation requests by what the cache did", ["outcome"]
)
_stores = Counter(
    "infermesh_gateway_cache_stores_total", "Answers sent to the cache, by outcome", ["outcome"]
)


class Outcome(enum.Enum):
    """What the cache did for a request, as the response's header says it."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the caller allows: to be answered from the cache, and to be kept there."""

    lookup: bool = True
    store: bool = True

    @classmethod
    def of(cls, directives: Mapping[str, str], *, no_store: bool) -> "Policy":
        """Return it from the directives of `Cache-Control` and the body's own field.

        `max-age=0` asks for a fresh answer as `no-cache` does (RFC 9111, 5.2.1).
        """
        keep = not no_store and "no-store" not in directives
        fresh = "no-cache" in directives or directives.get("max-age") == "0"
        return cls(lookup=keep and not fresh, store=keep)


class ResponseCache:
    """Looks answers up within a limit and stores them behind the caller's back.

    At most MAX_STORES stores run at once; further ones are dropped and counted. A lookup waits
    for the running store of the same request, so that asking twice in a row finds the first.
    """

    def __init__(self, cache: AnswerCache, timeout_s: float) -> None:
        self._cache = cache
        self._timeout_s = timeout_s
        self._rests_until = 0.0
        self._running: set[asyncio.Task[None]] = set()
        self._latest: dict[GenerationRequest, asyncio.Task[None]] = {}
        self._memo = RequestMemo()

    async def lookup(
        self, request: GenerationRequest, context: RequestContext, key: MemoKey | None = None
    ) -> tuple[Outcome, Answer | None]:
        """Return a hit with its answer, a miss, or a bypass where the cache does not work.

        What is found, `recall` finds by its key from then on.
        """
        if time.monotonic() < self._rests_until:
            return self.counted(Outcome.BYPASS), None
        limit_s = context.remaining(self._timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                storing = self._latest.get(request)
                if storing is not None:
                    await asyncio.wait({storing})
                answer = await self._cache.lookup(
                    request, RequestContext.start(limit_s, context.request_id)
                )
        except (MeshError, TimeoutError) as error:
            # a caller in a hurry is no fault of the cache
            if limit_s == self._timeout_s:
                self._rest(error)
            return self.counted(Outcome.BYPASS), None
        if answer is None:
            return self.counted(Outcome.MISS), None
        self._remember(key, request)
        return self.counted(Outcome.HIT), answer

    def recall(self, key: MemoKey) -> GenerationRequest | None:
        """Return the request that a key had, if its answer was stored or found lately."""
        return self._memo.get(key)

    def counted(self, outcome: Outcome) -> Outcome:
        """Count a request's outcome and return it."""
        _outcomes.labels(outcome.value).inc()
        return outcome

    def keep(
        self,
        request: GenerationRequest,
        answer: Answer,
        request_id: str,
        key: MemoKey | None = None,
    ) -> None:
        """Store an answer without waiting for it; see `lookup` for the key."""
        if len(self._running) >= MAX_STORES:
            _stores.labels("dropped").inc()
            return
        # an older answer's store ends first, so that the newer one stays
        storing = self._store(request, answer, request_id, key, self._latest.get(request))
        task = asyncio.create_task(storing, name="store-answer")
        self._running.add(task)
        self._latest[request] = task
        task.add_done_callback(lambda done: self._ended(request, done))

    async def drain(self) -> None:
        """Wait for the running stores."""
        if self._running:
            await asyncio.wait(set(self._running))

    async def close(self) -> None:
        """End the running stores; idempotent."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _store(
        self,
        request: GenerationRequest,
        answer: Answer,
        request_id: str,
        key: MemoKey | None,
        older: "asyncio.Task[None] | None",
    ) -> None:
        if older is not None:
            await asyncio.wait({older})
        try:
            context = RequestContext.start(STORE_LIMIT_S, request_id)
            await self._cache.store(request, answer, context)
        except MeshError as error:
            _stores.labels("failed").inc()
            self._rest(error)
        else:
            _stores.labels("stored").inc()
            self._remember(key, request)

    def _remember(self, key: MemoKey | None, request: GenerationRequest) -> None:
        if key is not None:
            self._memo.put(key, request)

    def _ended(self, request: GenerationRequest, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if self._latest.get(request) is task:
            del self._latest[request]

    def _rest(self, error: Exception) -> None:
        if time.monotonic() >= self._rests_until:
            logger.warning("the cache fails: %s", error or type(error).__name__)
        self._rests_until = time.monotonic() + REST_S
