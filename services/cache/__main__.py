"""`python -m services.cache`: reads settings, builds the store, serves it."""

from functools import partial

from mesh import rpc
from mesh.lifecycle import Lifecycle, run
from mesh.pb.cache_pb2 import DESCRIPTOR
from mesh.pb.cache_pb2_grpc import add_CacheServicer_to_server
from services import NAMES
from services.cache.config import CacheSettings
from services.cache.redis_store import RedisStore
from services.cache.servicer import CacheServicer


async def start(settings: CacheSettings, lifecycle: Lifecycle) -> None:
    """Serve also while Redis is away: the ping tells, and calls fail fast."""
    store = RedisStore(settings.redis_url, settings.timeout_s)
    lifecycle.stack.push_async_callback(store.close)
    lifecycle.checks.add("redis", store.ping)
    servicer = CacheServicer(store, settings.ttl_s, settings.max_answer_bytes)
    await rpc.serve(
        lifecycle,
        f"{settings.bind}:{settings.port}",
        [partial(add_CacheServicer_to_server, servicer)],
        [DESCRIPTOR.services_by_name["Cache"].full_name],
    )


if __name__ == "__main__":
    run(CacheSettings, start, NAMES)
