"""The one writer of a store and of a NATS server: holds the data folder and a lease on the bus.

Two retrievers with folders of their own on one work queue would split the documents between them.
A process that comes back with the same store takes its lease over at once.
"""

from pathlib import Path

from mesh.bus import (
    Bus,
    Lease,
    LeaseContendedError,
    LeaseError,
    LeaseHeldError,
    LeaseLostError,
)
from mesh.bus.subjects import WRITER_BUCKET
from mesh.lifecycle import Lifecycle
from services.retriever.folder import DataFolder, WriterError

LEASE_TTL_S = 10.0
LEASE_RENEW_S = 3.0

_REFUSALS = {
    LeaseHeldError: (
        "a retriever with another store answers on this NATS server (one that has ended is "
        f"forgotten after {LEASE_TTL_S:.0f} s)"
    ),
    LeaseContendedError: "another retriever starts on this NATS server",
    LeaseLostError: "another retriever has taken over on this NATS server",
}


async def become_writer(path: Path, bus: Bus, lifecycle: Lifecycle) -> DataFolder:
    """Return the data folder, held against other processes here and other stores on the bus.

    The life cycle gives both up, and ends with WriterError where another process takes over.
    Raises WriterError where another process is the writer.
    """
    folder = DataFolder(path)
    lifecycle.stack.callback(folder.close)
    lease = bus.lease(WRITER_BUCKET, folder.store_id, ttl_s=LEASE_TTL_S, renew_s=LEASE_RENEW_S)
    try:
        await lease.acquire()
    except LeaseError as error:
        raise WriterError(_REFUSALS[type(error)]) from error
    lifecycle.stack.push_async_callback(lease.release)
    lifecycle.spawn(_keep(lease), "lease")
    return folder


async def _keep(lease: Lease) -> None:
    try:
        await lease.keep()
    except LeaseError as error:
        raise WriterError(_REFUSALS[type(error)]) from error
