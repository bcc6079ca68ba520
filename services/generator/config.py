"""The generator's settings."""

from typing import ClassVar

from pydantic import Field

from mesh.config import Settings


class GeneratorSettings(Settings):
    """`INFERMESH_GENERATOR_*`; sizes in tokens unless named otherwise."""

    service: ClassVar[str] = "generator"

    port: int = Field(50054, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    dtype: str = Field("", pattern="^(|float32|bfloat16)$", description="default: the checkpoint's")
    max_sequences: int = Field(64, ge=1, le=1024, description="sequences in one engine step")
    max_batched_tokens: int = Field(512, ge=16, le=65536, description="token budget of one step")
    target_step_ms: float = Field(0, ge=0, description="step time while streams decode; 0: none")
    max_waiting: int = Field(16, ge=0, le=4096, description="sequences taken beyond those running")
    max_waiting_tokens: int = Field(0, ge=0, description="prompt tokens that wait; 0: no limit")
    kv_cache_mb: int = Field(0, ge=0, description="KV cache; 0 sizes it from the free memory")
    threads: int = Field(0, ge=0, le=256, description="torch threads; 0 takes all cores")
