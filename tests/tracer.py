"""Which of the project's functions run while something happens, in all threads, in their order."""

import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Recording:
    """Paths of files relative to the repository's root, in the order in which they came up.

    `entered` has, for each file, the first of its functions that was called. `on_stacks` has the
    files that stood on the call stack at a crossing.
    """

    entered: dict[str, str] = field(default_factory=dict)
    on_stacks: dict[str, str] = field(default_factory=dict)


class Tracer:
    """Follows the functions in files below some folders, in this thread and those started later.

    `crossings` are the functions at whose calls the stack is looked at. A coroutine stands on the
    stack of what awaits it, also when it goes on after a wait.
    """

    def __init__(self, folders: Collection[str], crossings: Collection[CodeType]) -> None:
        self._prefixes = tuple(f"{ROOT / folder}/" for folder in folders)
        self._crossings = frozenset(crossings)
        self._paths: dict[CodeType, str | None] = {}
        self._recording: Recording | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch every call from here on; nothing is kept as yet."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Keep what happens in a while."""
        recording = self._recording = Recording()
        try:
            yield recording
        finally:
            self._recording = None

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        recording = self._recording
        if event != "call" or recording is None:
            return
        code = frame.f_code
        path = self._path(code)
        if path is not None:
            recording.entered.setdefault(path, code.co_qualname)
        if code in self._crossings:
            for above in reversed(self._stack(frame)):
                recording.on_stacks.setdefault(above, code.co_qualname)

    def _stack(self, frame: FrameType) -> list[str]:
        """Return the followed files on the stack below a crossing, innermost first."""
        paths = []
        above = frame.f_back
        while above is not None:
            path = self._path(above.f_code)
            if path is not None:
                paths.append(path)
            above = above.f_back
        return paths

    def _path(self, code: CodeType) -> str | None:
        """Return the file of a function; None where it is not followed, or a module's body."""
        try:
            return self._paths[code]
        except KeyError:
            follows = code.co_filename.startswith(self._prefixes) and code.co_name != "<module>"
            path = str(Path(code.co_filename).relative_to(ROOT)) if follows else None
            return self._paths.setdefault(code, path)
