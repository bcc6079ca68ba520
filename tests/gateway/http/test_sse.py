"""Server-sent events."""

from services.gateway.http import sse


def test_event_is_one_line() -> None:
    """Line breaks inside an event's JSON are escaped."""
    assert sse.event({"a": "x\ny"}) == b'data: {"a":"x\\ny"}\n\n'
