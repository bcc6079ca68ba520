"""Settings of the cache service."""

from typing import ClassVar

from pydantic import Field

from mesh.config import Settings


class CacheSettings(Settings):
    """`INFERMESH_CACHE_*`; Redis is the shared `INFERMESH_REDIS_URL`."""

    service: ClassVar[str] = "cache"

    port: int = Field(50053, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    ttl_s: int = Field(3600, ge=1, le=30 * 86_400, description="life of an answer")
    max_answer_bytes: int = Field(2**20, ge=1, description="larger answers are not kept")
    timeout_s: float = Field(0.25, gt=0, le=10, description="limit for one question to Redis")
