"""Starts the retriever: data folder, bus, lease, encoder, collections, ingest queue, gRPC."""

import asyncio
from pathlib import Path

from mesh import rpc
from mesh.bus import Bus
from mesh.lifecycle import Lifecycle, run
from mesh.pb import retriever_pb2, retriever_pb2_grpc
from services import NAMES
from services.retriever import encoder
from services.retriever.collections_store import CollectionsStore
from services.retriever.config import RetrieverSettings
from services.retriever.encoder_batcher import EncoderBatcher
from services.retriever.indexer import Indexer
from services.retriever.ingest_queue import IngestQueue
from services.retriever.servicer import RetrieverServicer
from services.retriever.writer import become_writer


async def start(settings: RetrieverSettings, lifecycle: Lifecycle) -> None:
    """Return when searches and ingestions are served."""
    stack = lifecycle.stack
    bus = await Bus.connect(settings.nats_url, settings.service)
    stack.push_async_callback(bus.close)
    folder = await become_writer(Path(settings.data), bus, lifecycle)
    model = await asyncio.to_thread(encoder.load, settings.encoder, settings.encoder_threads)
    collections = await CollectionsStore.open(folder.path, model.name, model.dimensions)
    stack.push_async_callback(collections.close)
    batcher = await stack.enter_async_context(EncoderBatcher(model.encode))
    indexer = Indexer(
        collections,
        batcher,
        model.tokenizer,
        settings.chunk_words,
        settings.chunk_overlap_sentences,
    )
    ingest_queue = IngestQueue(bus, collections, indexer, settings.ingest_workers)
    lifecycle.spawn(ingest_queue.run(), "ingest queue")
    lifecycle.checks.add("bus", bus.ping)
    lifecycle.checks.add("store", collections.ping)
    lifecycle.checks.add("encoder", batcher.ping)
    servicer = RetrieverServicer(
        collections,
        batcher,
        ingest_queue,
        model=model.name,
        tokenizer=model.tokenizer,
        max_document_bytes=settings.max_document_bytes,
    )
    await rpc.serve(
        lifecycle,
        f"{settings.bind}:{settings.port}",
        [lambda server: retriever_pb2_grpc.add_RetrieverServicer_to_server(servicer, server)],
        [retriever_pb2.DESCRIPTOR.services_by_name["Retriever"].full_name],
    )


if __name__ == "__main__":
    run(RetrieverSettings, start, NAMES)
