"""Progress of a download: a bar on a terminal, a line at its start and at its end elsewhere."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_POLL_S = 0.2


@contextmanager
def following(name: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Show how many of `total` bytes are there while the block runs; `done` is asked for them."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        console.print(f"pulling {name} ({total / 1e6:.0f} MB)", highlight=False)
        yield
        return
    bar = Progress(
        TextColumn("{task.description}"),
        *(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
        console=console,
    )
    ended = threading.Event()
    with bar:
        task = bar.add_task(f"pulling {name}", total=total)

        def follow() -> None:
            while not ended.wait(_POLL_S):
                bar.update(task, completed=min(total, done()))

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
            bar.update(task, completed=total)
        finally:
            ended.set()
            follower.join()


def bytes_in(folder: Path) -> int:
    """Return the bytes of the files below a folder, which may go while they are counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
