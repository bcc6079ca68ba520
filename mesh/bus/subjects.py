"""Every name on the bus: subjects, streams and buckets. They are built here and nowhere else."""

ANNOUNCE = "mesh.v1.generator.announce"
HELLO = "mesh.v1.generator.hello"
INGEST = "mesh.v1.ingest.document"
INGEST_STREAM = "INGEST"
INGEST_BUCKET = "ingest-documents"
WRITER_BUCKET = "retriever-writer"


def commands(replica_id: str) -> str:
    """Return where one generator replica takes jobs, cancellations and requests for frames."""
    return f"mesh.v1.generator.command.{replica_id}"


def undelivered(gateway_id: str, replica_id: str) -> str:
    """Return where the server tells a gateway that nobody takes a replica's commands any more."""
    return f"mesh.v1.gateway.undelivered.{gateway_id}.{replica_id}"


def frames(gateway_id: str) -> str:
    """Return where one gateway receives the token frames of its jobs."""
    return f"mesh.v1.gateway.frames.{gateway_id}"
