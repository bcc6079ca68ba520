"""The message bus: publish and subscribe, work queues, blobs and leases over NATS.

Nothing outside this package imports nats: types are ours, and so are the errors.
"""

from mesh.bus.blobs import BlobNotFoundError, Blobs
from mesh.bus.connection import Bus, Subscription
from mesh.bus.errors import BusUnavailableError
from mesh.bus.lease import Lease, LeaseContendedError, LeaseError, LeaseHeldError, LeaseLostError
from mesh.bus.messages import UnreadableError
from mesh.bus.work_queue import Consumer, Delivery, WorkQueue

__all__ = [
    "BlobNotFoundError",
    "Blobs",
    "Bus",
    "BusUnavailableError",
    "Consumer",
    "Delivery",
    "Lease",
    "LeaseContendedError",
    "LeaseError",
    "LeaseHeldError",
    "LeaseLostError",
    "Subscription",
    "UnreadableError",
    "WorkQueue",
]
