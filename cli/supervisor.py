"""Runs all processes of the stack together and stops them in order, stage by stage."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli.log import Log
from cli.replica import Replica, Service, State


class Supervisor:
    """`stages` are stopped one after the other; all are started together.

    `report` hears of every change, `on_ready` once, when everything is ready for the first time.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Service]],
        logs: Path,
        report: Callable[[Replica, str], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._report = report
        self._on_ready = on_ready
        self._was_ready = False
        self._stop = asyncio.Event()
        self._probes = ThreadPoolExecutor(sum(map(len, stages)), thread_name_prefix="probe")
        self._stages = [
            [Replica(s, Log(logs / f"{s.label}.log"), self._changed, self._probes) for s in stage]
            for stage in stages
        ]

    @property
    def replicas(self) -> list[Replica]:
        """All of them, in the order in which they stop."""
        return [replica for stage in self._stages for replica in stage]

    async def run(self, grace_s: float) -> None:
        """Keep everything running until `interrupt`, then stop it; no process is left."""
        try:
            async with asyncio.TaskGroup() as group:
                for replica in self.replicas:
                    group.create_task(replica.run())
                await self._stop.wait()
                for stage in self._stages:
                    await asyncio.gather(*(replica.stop(grace_s) for replica in stage))
        finally:
            self._probes.shutdown(wait=False, cancel_futures=True)

    def interrupt(self) -> bool:
        """Stop in order the first time; kill everything the second time, and return False."""
        if self._stop.is_set():
            for replica in self.replicas:
                replica.kill()
            return False
        self._stop.set()
        return True

    def _changed(self, replica: Replica, detail: str) -> None:
        self._report(replica, detail)
        all_ready = all(each.state is State.READY for each in self.replicas)
        if all_ready and not self._was_ready:
            self._was_ready = True
            self._on_ready()
