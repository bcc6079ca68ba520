"""Bus messages: what can be read and what passes through."""

import pytest

from mesh.bus import UnreadableError
from mesh.bus.messages import decode
from mesh.pb import events_pb2


def test_decode_keeps_what_it_does_not_know() -> None:
    """A field of a later minor version passes through a reader that re-sends the message."""
    data = events_pb2.Hello(version=1, gateway_id="g").SerializeToString() + b"\xfa\x06\x01x"
    assert decode(events_pb2.Hello, data).SerializeToString() == data
    with pytest.raises(UnreadableError):
        decode(events_pb2.Hello, b"")
