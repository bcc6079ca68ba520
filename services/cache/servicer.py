"""The gRPC adapter of the cache: checks requests, turns answers to bytes and back, counts."""

import time
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from mesh import rpc
from mesh.errors import invalid
from mesh.pb import cache_pb2 as pb
from mesh.pb import cache_pb2_grpc as pb_grpc
from mesh.pb.common_pb2 import FinishReason
from services.cache import keys
from services.cache.redis_store import RedisStore

Context = grpc.aio.ServicerContext[Any, Any]
# an answer that broke off is no answer to anybody else
WHOLE = (FinishReason.FINISH_REASON_STOP, FinishReason.FINISH_REASON_LENGTH)
# encoding a longer prompt would keep the loop from other calls
MAX_PROMPT_TOKENS = 2**17

_hits = Counter("infermesh_cache_hits_total", "Lookups that found an answer")
_misses = Counter("infermesh_cache_misses_total", "Lookups that found none")
_corrupt = Counter("infermesh_cache_corrupt_total", "Stored values that were no answer")
_stored = Counter("infermesh_cache_stored_total", "Answers stored")
_stored_bytes = Counter("infermesh_cache_stored_bytes_total", "Bytes of the answers stored")
_too_large = Counter("infermesh_cache_too_large_total", "Answers too large to store")
_removed = Counter("infermesh_cache_invalidated_total", "Answers removed by invalidation")


class CacheServicer(pb_grpc.CacheServicer):
    """`mesh.v1.Cache` over a store."""

    def __init__(self, store: RedisStore, ttl_s: int, max_answer_bytes: int) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._max_answer_bytes = max_answer_bytes

    async def Lookup(self, request: pb.LookupRequest, context: Context) -> pb.LookupResponse:
        """Return the answer, where this very request was answered before."""
        name = _name(request.key)
        rpc.request_context(context).remaining()
        value = await self._store.get(name)
        answer = None if value is None else _read(value)
        if value is not None and answer is None:
            _corrupt.inc()
            await self._store.remove(name)
        (_misses if answer is None else _hits).inc()
        return pb.LookupResponse(answer=answer)

    async def Store(self, request: pb.StoreRequest, context: Context) -> pb.StoreResponse:
        """Keep a whole answer for the next one who asks."""
        name = _name(request.key)
        if request.answer.finish_reason not in WHOLE:
            raise invalid("answer.finish_reason", "answer.finish_reason must be STOP or LENGTH.")
        rpc.request_context(context).remaining()
        answer = pb.CachedAnswer()
        answer.CopyFrom(request.answer)
        answer.created_unix_s = int(time.time())
        value = answer.SerializeToString()
        if len(value) > self._max_answer_bytes:
            _too_large.inc()
            return pb.StoreResponse(stored=False)
        await self._store.put(name, value, request.ttl_s or self._ttl_s)
        _stored.inc()
        _stored_bytes.inc(len(value))
        return pb.StoreResponse(stored=True)

    async def Invalidate(
        self, request: pb.InvalidateRequest, context: Context
    ) -> pb.InvalidateResponse:
        """Forget all answers of one tenant."""
        removed = await self._store.remove_all(keys.prefix(request.tenant))
        _removed.inc(removed)
        return pb.InvalidateResponse(removed=removed)


def _name(key: pb.CacheKey) -> bytes:
    """Return where this request's answer lies; raise MeshError for a key that determines none."""
    if not key.model:
        raise invalid("key.model", "key.model must name the model.")
    if not 1 <= len(key.prompt_token_ids) <= MAX_PROMPT_TOKENS:
        raise invalid(
            "key.prompt_token_ids", f"key.prompt_token_ids must hold 1 to {MAX_PROMPT_TOKENS} ids."
        )
    return keys.name(key)


def _read(value: bytes) -> pb.CachedAnswer | None:
    """Return the answer in a stored value; None where it is none that this service wrote."""
    answer = pb.CachedAnswer()
    try:
        answer.ParseFromString(value)
    except DecodeError:
        return None
    return answer if answer.created_unix_s and answer.finish_reason in WHOLE else None
