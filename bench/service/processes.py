"""What each process of a stack has used of the processors."""

import re
from collections import defaultdict

import psutil

_SERVICE = re.compile(r"services\.(\w+)|(nats-server|redis-server)")


class Processes:
    """The processes below the one that started the stack, by service."""

    def __init__(self, pid: int) -> None:
        parent = psutil.Process(pid)
        self._processes = {child: _name(child) for child in parent.children(recursive=True)}
        self._processes[parent] = "supervisor"

    def used_s(self) -> dict[str, float]:
        """Return the seconds of processor time by service, since its start."""
        used: defaultdict[str, float] = defaultdict(float)
        for process, name in self._processes.items():
            times = process.cpu_times()
            used[name] += times.user + times.system
        return used


def _name(process: psutil.Process) -> str:
    match = _SERVICE.search(" ".join(process.cmdline()))
    return match.group(1) or match.group(2) if match else process.name()
