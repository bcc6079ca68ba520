"""Runs a command that ends with its parent: `python launcher.py PARENT_PID COMMAND...`.

The kernel kills the process when the supervisor ends in any way, `kill -9` included. A program of
its own, because code between fork and exec is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def bound_to_this(command: Sequence[str]) -> list[str]:
    """Return what runs a command that ends, killed, with the thread that starts it."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Become the command: same process, same pid."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            sys.exit(1)
    # Python ignores it for itself, and a new program would inherit that
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
