"""Keep an answer in the cache service over gRPC and find it again.

python examples/cache_direct.py [ADDRESS]     default: INFERMESH_CACHE_URL
"""

import asyncio
import os
import sys

import grpc

from mesh.pb.cache_pb2 import CachedAnswer, CacheKey, LookupRequest, StoreRequest
from mesh.pb.cache_pb2_grpc import CacheStub
from mesh.pb.common_pb2 import FinishReason, SamplingParams


async def main(address: str) -> None:
    """One answer in, the same answer out; another question finds nothing."""
    key = CacheKey(
        tenant="examples",
        model="smollm2-135m-instruct",
        model_revision="1",
        prompt_token_ids=[5, 6, 7],
        sampling=SamplingParams(max_tokens=16),
    )
    answer = CachedAnswer(text="Hello there.", finish_reason=FinishReason.FINISH_REASON_STOP)
    async with grpc.aio.insecure_channel(address) as channel:
        cache = CacheStub(channel)
        await cache.Store(StoreRequest(key=key, answer=answer, ttl_s=60), timeout=5)
        found = await cache.Lookup(LookupRequest(key=key), timeout=5)
        print("the same question:", found.answer.text)

        key.prompt_token_ids.append(8)
        found = await cache.Lookup(LookupRequest(key=key), timeout=5)
        print("another question:", found.answer.text if found.HasField("answer") else "not found")


if __name__ == "__main__":
    default = os.environ.get("INFERMESH_CACHE_URL", "127.0.0.1:50053")
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default))
