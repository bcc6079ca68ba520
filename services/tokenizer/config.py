"""Settings of the tokenizer; `model` and `model_id` are shared with the other services."""

from typing import ClassVar

from pydantic import Field

from mesh.config import Settings


class TokenizerSettings(Settings):
    """What the tokenizer is told on top of the shared settings."""

    service: ClassVar[str] = "tokenizer"

    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    max_text_bytes: int = Field(2**20, ge=1, le=16 * 2**20, description="UTF-8 text per request")
    threads: int = Field(2, ge=1, le=64, description="threads for large texts")
    max_waiting: int = Field(256, ge=0, description="large texts that may wait for a thread")
