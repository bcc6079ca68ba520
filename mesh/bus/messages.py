"""Bus messages as bytes: protos with a version, refused where they cannot be read."""

from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

VERSION = 1
# what a subscription holds before its reader
MAX_PENDING_MESSAGES = 16_384
MAX_PENDING_BYTES = 64 * 2**20

M = TypeVar("M", bound=Message)


class Versioned(Protocol):
    """A bus message's generated class instance."""

    version: int

    def SerializeToString(self) -> bytes: ...


class UnreadableError(Exception):
    """A message that is no message of this contract or of a newer version of it."""


def encode(message: Versioned) -> bytes:
    """Return the message's bytes; its version is set here."""
    message.version = VERSION
    return message.SerializeToString()


def decode(kind: type[M], data: bytes) -> M:
    """Read a message; raise UnreadableError. Fields that are not known are kept aside."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise UnreadableError("not a message of this contract") from error
    version = message.version  # type: ignore[attr-defined]  # every bus message has it
    if not 1 <= version <= VERSION:
        raise UnreadableError(f"version {version}")
    return message
