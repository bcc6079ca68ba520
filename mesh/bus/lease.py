"""Leases in a JetStream key-value bucket: one holder at a time, for as long as it renews.

Every write names the revision it replaces, so that of two processes one fails. The bucket's age
limit ends the lease of a holder that died.
"""

import asyncio
import contextlib
import logging
import uuid

from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import (
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from mesh.bus.errors import BusUnavailableError, translated

logger = logging.getLogger(__name__)

KEY = "holder"


class LeaseError(Exception):
    """The lease is another's."""


class LeaseHeldError(LeaseError):
    """Another owner holds the lease."""


class LeaseContendedError(LeaseError):
    """Another process acquired the lease in the same moment."""


class LeaseLostError(LeaseError):
    """Another process of the same owner took the lease over."""


class Lease:
    """`acquire`, then `keep` in a task, then `release`.

    A process takes over at once from another of the same `owner`, which it is assumed to replace.
    """

    def __init__(
        self, jetstream: JetStreamContext, bucket: str, owner: str, *, ttl_s: float, renew_s: float
    ) -> None:
        self._jetstream = jetstream
        self._bucket = bucket
        self._owner = owner.encode()
        self._value = self._owner + b" " + uuid.uuid4().hex.encode()
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._revision = 0

    async def acquire(self) -> None:
        """Hold the lease from now on.

        Raises LeaseHeldError, LeaseContendedError or BusUnavailableError.
        """
        with translated():
            keys = await self._keys()
            try:
                self._revision = await keys.create(KEY, self._value)
                return
            except KeyWrongLastSequenceError:
                pass
            try:
                held = await keys.get(KEY)
                if (held.value or b"").rsplit(b" ", 1)[0] != self._owner:
                    raise LeaseHeldError
                self._revision = await keys.update(KEY, self._value, last=held.revision)
            except (KeyNotFoundError, KeyWrongLastSequenceError):
                raise LeaseContendedError from None

    async def keep(self) -> None:
        """Renew until cancelled; raise a LeaseError when another process has taken the lease."""
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                await self._renew()
            except BusUnavailableError as error:
                logger.warning("the lease was not renewed: %s", type(error.__cause__).__name__)

    async def release(self) -> None:
        """Let another owner acquire the lease at once."""
        with contextlib.suppress(BusUnavailableError), translated():
            await (await self._keys()).delete(KEY, last=self._revision)

    async def _renew(self) -> None:
        with translated():
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
            raise LeaseLostError
        self._revision = held.revision or 0

    async def _keys(self) -> KeyValue:
        try:
            return await self._jetstream.key_value(self._bucket)
        except (BucketNotFoundError, NotFoundError):
            return await self._jetstream.create_key_value(
                KeyValueConfig(bucket=self._bucket, ttl=self._ttl_s)
            )
