"""The log file of one replica, and what of it a person should see when the process died."""

import json
import os
from pathlib import Path
from typing import BinaryIO

LINES = 8
READ_BYTES = 16_384
LINE_WIDTH = 300


class Log:
    """Grows over all lives of the replica; `tail` is of the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def open(self) -> BinaryIO:
        """For the next process's output."""
        file = self.path.open("ab")
        self._start = file.seek(0, os.SEEK_END)
        return file

    def tail(self) -> list[str]:
        """Return the last lines since the last `open`, shortened."""
        with self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._start, end - READ_BYTES))
            text = file.read().decode(errors="replace")
        lines = [line for written in text.splitlines() for line in _readable(written)]
        return [line[:LINE_WIDTH] for line in lines[-LINES:]]


def _readable(line: str) -> list[str]:
    """Our services write JSON; others' lines stay as they are."""
    try:
        entry = json.loads(line)
        summary = [f"{entry['level']} {entry['message']}"]
    except (ValueError, KeyError, TypeError):
        return [line]
    trace = str(entry.get("exception", "")).strip().splitlines()
    return summary + trace[-1:]
