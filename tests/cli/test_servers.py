"""Stock servers: ports for them, and whether they answer."""

import socket
from pathlib import Path

import pytest

from cli import servers


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    """An outgoing connection cannot take it while its server restarts."""
    assert 15_000 <= servers.free_port() < servers._first_ephemeral_port()


def test_a_port_is_handed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken is left out, and running out is an error."""
    monkeypatch.setattr(servers, "_first_ephemeral_port", lambda: 0)
    with pytest.raises(servers.MissingServerError):
        servers.free_port(taken=range(15_000, 20_000))


def test_a_port_without_a_range_on_this_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the kernel does not say, the usual range is avoided."""
    monkeypatch.setattr(servers, "EPHEMERAL_PORTS", tmp_path / "none")
    assert servers._first_ephemeral_port() == 32_768


def test_a_listener_makes_its_port_busy() -> None:
    """Also for a server that reuses addresses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not servers.is_free("127.0.0.1", port)
    assert servers.is_free("127.0.0.1", port)


def test_real_servers_answer(nats_url: str, redis_url: str) -> None:
    """Each is recognised by its own greeting."""
    nats_port, redis_port = (int(u.split(":")[2].split("/")[0]) for u in (nats_url, redis_url))
    assert servers.nats_answers(nats_port)
    assert servers.redis_answers(redis_port)
    assert not servers.redis_answers(nats_port)
    assert not servers.nats_answers(servers.free_port())
