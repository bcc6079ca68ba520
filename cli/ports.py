"""Which port each process of a local stack gets: the one that was asked for, else a free one."""

from collections.abc import Mapping

from cli import servers
from mesh.config import PREFIX

GATEWAY_PORT = 8080
METRICS = "INFERMESH_METRICS_PORT"


class Ports:
    """Hands out every port once; what cannot be had is collected in `problems`.

    A variable such as INFERMESH_TOKENIZER_PORT names the first replica's port, the others follow.
    """

    def __init__(self, host: str, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._host = host
        self._environ = environ
        self._taken: set[int] = set()
        self._num_metrics = 0

    def gateway(self, asked: int | None) -> int:
        """Take the gateway's port; do so first, so that no port chosen freely is in its way."""
        variable = f"{PREFIX}GATEWAY_PORT"
        first = asked if asked is not None else self._number(variable)
        return self._claim(GATEWAY_PORT if first is None else first, "gateway", "--port")

    def replica(self, name: str, index: int) -> int:
        """One replica's gRPC port."""
        variable = f"{PREFIX}{name.upper()}_PORT"
        first = self._number(variable)
        return self.free() if first is None else self._claim(first + index, name, variable)

    def metrics(self, name: str) -> int:
        """One process's metrics port."""
        first = self._number(METRICS)
        self._num_metrics += 1
        if not first:
            return self.free()
        return self._claim(first + self._num_metrics - 1, name, METRICS)

    def free(self) -> int:
        """Any port that nobody uses."""
        port = servers.free_port(self._host, self._taken)
        self._taken.add(port)
        return port

    def _number(self, variable: str) -> int | None:
        text = self._environ.get(variable)
        if text is None:
            return None
        if not text.isdecimal():
            self.problems.append(f"{variable}: {text!r} is no port")
            return None
        return int(text)

    def _claim(self, port: int, name: str, setting: str) -> int:
        if not 1 <= port <= 65_535:
            self.problems.append(f"{setting}: {port} is no port")
        elif port in self._taken or not servers.is_free(self._host, port):
            self.problems.append(f"port {port} is busy; the {name} needs it (see {setting})")
        self._taken.add(port)
        return port
