"""Talks to the retriever over gRPC: ingest, wait, embed, search. Address: argument or variable."""

import asyncio
import os
import sys

from mesh import rpc
from mesh.context import RequestContext
from mesh.pb import retriever_pb2 as pb
from mesh.pb.retriever_pb2_grpc import RetrieverStub

TEXT = b"The Aldermoor lighthouse was built in 1871. Its lamp is turned by a water wheel."


async def main(address: str) -> None:
    """Print the number of passages, the size of a vector and the best passage."""
    context = RequestContext.start(30)
    async with rpc.channel(address) as channel:
        stub = RetrieverStub(channel)
        document = pb.IngestRequest(collection="example", source="lighthouse.txt", content=TEXT)
        queued = await rpc.call(stub.Ingest, document, context)
        asked = pb.IngestionStatusRequest(ingestion_id=queued.ingestion_id)
        # the state is the service's: nothing here to wait on
        while (status := await rpc.call(stub.IngestionStatus, asked, context)).state == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        print(f"indexed {status.passages} passage(s) {status.error}")
        embedded = await rpc.call(stub.Embed, pb.EmbedRequest(texts=["a lighthouse"]), context)
        print(f"{embedded.model}: {len(embedded.vectors[0].values)} numbers")
        query = pb.SearchRequest(collection="example", query="What turns the lamp?", top_k=1)
        for passage in (await rpc.call(stub.Search, query, context)).passages:
            print(f"{passage.score:.2f} {passage.source}: {passage.text}")


if __name__ == "__main__":
    default = os.environ.get("INFERMESH_RETRIEVER_URL", "127.0.0.1:50052")
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default))
