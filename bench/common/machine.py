"""What every result says of where it comes from."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "triton", "transformers", "grpcio", "nats-py", "aiohttp", "tokenizers")


def describe() -> dict[str, object]:
    """Machine, versions, commit, command and time of a run."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": " ".join(["python -m", *_module()]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _module() -> list[str]:
    path = Path(sys.argv[0])
    if path.stem == "__main__":
        path = path.parent
    return [f"{path.parent.name}.{path.stem}", *map(_portable, sys.argv[1:])]


def _portable(argument: str) -> str:
    """Return a path's name: the rest of an absolute one says nothing on another machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    command, folder = ["git", *arguments], Path(__file__).parent
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except OSError:
        return ""
    return done.stdout.strip()
