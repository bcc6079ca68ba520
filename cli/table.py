"""What a person sees of a running stack: a live table on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.replica import Replica, State

STYLES = {State.READY: "green", State.RESTARTING: "red", State.UNREADY: "red"}


class Lines:
    """One line per change."""

    def __init__(self, external: Mapping[str, str]) -> None:
        self._external = external

    def __enter__(self) -> Self:
        for name, url in self._external.items():
            self.say(f"{name:<14}external      {url}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def show(self, replicas: Sequence[Replica]) -> None:
        """All replicas at once; lines have told it already."""

    def changed(self, replica: Replica, detail: str) -> None:
        """One replica's news."""
        service, pid = replica.service, replica.pid or "-"
        self.say(
            f"{service.label:<14}{replica.state:<11} pid {pid:<8} port {service.port:<6}"
            f" restarts {replica.restarts}" + (f"  {detail}" if detail else "")
        )

    def say(self, text: str) -> None:
        """Text of its own, never broken into lines that would not paste."""
        print(text, flush=True)


class LiveTable(Lines):
    """A table that stays at the bottom of the terminal; what happened scrolls above it."""

    def __init__(self, external: Mapping[str, str], console: Console) -> None:
        super().__init__(external)
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, replicas: Sequence[Replica]) -> None:
        """Draw the table anew."""
        self._live.update(_table(replicas, self._external), refresh=True)

    def changed(self, replica: Replica, detail: str) -> None:
        """Only what the table cannot say."""
        if detail:
            self.say(f"{replica.service.label} {detail}")

    def say(self, text: str) -> None:
        """Scroll above the table."""
        self._live.console.print(text, soft_wrap=True, markup=False, highlight=False)


def screen(external: Mapping[str, str]) -> Lines:
    """Return the right table for this standard output."""
    return LiveTable(external, Console()) if sys.stdout.isatty() else Lines(external)


def _table(replicas: Sequence[Replica], external: Mapping[str, str]) -> Table:
    table = Table("service", "state", "pid", "port", "restarts")
    for replica in replicas:
        state = f"[{STYLES.get(replica.state, 'yellow')}]{replica.state}"
        pid, port = str(replica.pid or ""), str(replica.service.port)
        table.add_row(replica.service.label, state, pid, port, str(replica.restarts))
    for name, url in external.items():
        table.add_row(name, "external", "", url, "")
    return table
