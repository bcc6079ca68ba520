"""A worker process as the bench sees it: asked one thing at a time, stopped in between."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class PeerError(Exception):
    """Why an engine cannot be measured, in one line."""


class WorkerProcess:
    """Owns one worker and its process group.

    Between questions the group is stopped (SIGSTOP), so that no thread pool of an idle engine
    spins beside the one that is measured. `started_s` is when it was started, in seconds of
    `time.perf_counter`.
    """

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self._log = log
        self._unread = b""
        self.started_s = time.perf_counter()
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **environ},
                cwd=ROOT,
                start_new_session=True,
            )

    def ask(self, question: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Return the answer; raises PeerError for an error, a death or silence of `limit_s`."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words("ended early")) from None
        answer: dict[str, Any] = json.loads(self._read_line(question["do"], limit_s))
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise PeerError(" ".join(str(answer["error"]).split()))
        return answer

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def status(self) -> dict[str, str]:
        """Return the kernel's account of the process, /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}

    def close(self) -> None:
        """End the group at once; a worker holds nothing that is worth a goodbye."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _read_line(self, task: str, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        deadline_s = time.perf_counter() + limit_s
        while b"\n" not in self._unread:
            left_s = deadline_s - time.perf_counter()
            if left_s <= 0 or not select.select([out], [], [], left_s)[0]:
                raise PeerError(f"{task} took more than {limit_s:.0f} s")
            read = os.read(out, 1 << 16)
            if not read:
                raise PeerError(self._last_words(f"ended during {task}"))
            self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _last_words(self, what: str) -> str:
        """Describe an end that was not asked for, with the last line that it logged."""
        code = self._process.wait()
        lines = self._log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return f"{what} with exit code {code}: {last}"
