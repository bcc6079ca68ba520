"""One store per NATS server: a lease in a key-value bucket, renewed while this process lives.

Two retrievers with folders of their own on one work queue would split the documents between them.
A process that comes back with the same store takes its lease over at once.
"""

import asyncio
import contextlib
import logging
import uuid
from pathlib import Path

import nats.errors
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from mesh.bus import Bus
from mesh.lifecycle import Lifecycle
from services.retriever.folder import DataFolder, WriterError

log = logging.getLogger(__name__)

BUCKET = "retriever-writer"
KEY = "holder"
TTL_S = 10.0
RENEW_S = 3.0


async def become_writer(path: Path, bus: Bus, lifecycle: Lifecycle) -> DataFolder:
    """The data folder, held against other processes here and other stores on the bus.

    The life cycle gives both up, and ends with WriterError where another process takes over.
    """
    try:
        folder = DataFolder(path)
        lifecycle.stack.callback(folder.close)
        lease = Lease(bus, folder.store_id)
        await lease.acquire()
    except WriterError as refusal:
        log.error("%s", refusal)
        raise
    lifecycle.stack.push_async_callback(lease.release)
    lifecycle.spawn(lease.renew(), "lease")
    return folder


class Lease:
    """`acquire`, then `renew` in a task, then `release`."""

    def __init__(self, bus: Bus, store_id: str) -> None:
        self._bus = bus
        self._store_id = store_id
        self._value = f"{store_id} {uuid.uuid4().hex}".encode()
        self._revision = 0

    async def acquire(self) -> None:
        """Raises WriterError where the process of another store holds the lease."""
        keys = await self._keys()
        try:
            self._revision = await keys.create(KEY, self._value)
            return
        except KeyWrongLastSequenceError:
            pass
        try:
            held = await keys.get(KEY)
            if (held.value or b"").split(b" ")[0] != self._store_id.encode():
                raise WriterError(
                    f"a retriever with another store answers on this NATS server (one that has "
                    f"ended is forgotten after {TTL_S:.0f} s)"
                )
            self._revision = await keys.update(KEY, self._value, last=held.revision)
        except (KeyNotFoundError, KeyWrongLastSequenceError):
            raise WriterError("another retriever starts on this NATS server") from None

    async def renew(self) -> None:
        """Renews until cancelled; raises WriterError when another process took the lease."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew_once()
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("the lease was not renewed: %s", type(error).__name__)

    async def release(self) -> None:
        """Lets a retriever with another store start at once."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await (await self._keys()).delete(KEY, last=self._revision)

    async def _renew_once(self) -> None:
        keys = await self._keys()
        try:
            self._revision = await keys.update(KEY, self._value, last=self._revision)
            return
        except KeyWrongLastSequenceError:
            pass
        try:
            held = await keys.get(KEY)
        except KeyNotFoundError:
            # it ran out while the bus was away
            await self.acquire()
            return
        if held.value != self._value:
            raise WriterError("another retriever has taken over on this NATS server")
        self._revision = held.revision or 0

    async def _keys(self) -> KeyValue:
        return await self._bus.keys(BUCKET, ttl_s=TTL_S)
