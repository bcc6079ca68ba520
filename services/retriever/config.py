"""What the retriever is told."""

from typing import ClassVar

from pydantic import Field

from mesh.config import Settings


class RetrieverSettings(Settings):
    """`INFERMESH_RETRIEVER_*` beside the shared settings."""

    service: ClassVar[str] = "retriever"

    port: int = Field(50052, ge=0, le=65535, description="gRPC port")
    data: str = Field(".infermesh/retriever", description="folder of the embedded store")
    encoder: str = Field("", description="sentence-transformers folder; default: all-MiniLM-L6-v2")
    encoder_threads: int = Field(1, ge=1, le=256, description="CPU threads of the encoder")
    chunk_words: int = Field(60, ge=8, le=400, description="most words of a passage")
    chunk_overlap_sentences: int = Field(0, ge=0, le=8, description="shared by neighbours")
    max_document_bytes: int = Field(16 * 2**20, ge=1, le=31 * 2**20, description="largest document")
    ingest_workers: int = Field(4, ge=1, le=32, description="documents worked on at a time")
