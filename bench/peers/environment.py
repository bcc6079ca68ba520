"""A virtual environment per peer, made once from pinned requirements and kept."""

import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from bench.peers.cached_folder import cached_folder
from bench.peers.process import PeerError

REQUIREMENTS = Path(__file__).parent / "requirements"
INSTALL_LIMIT_S = 3600.0


def requirements(name: str) -> str:
    """Return the environment's pins."""
    return (REQUIREMENTS / f"{name}.txt").read_text()


def ensure(name: str, folder: Path) -> Path:
    """Return the Python of the environment `folder`/`name`.

    torch is pinned to this process's own build, so that no CUDA build comes in where this one has
    none; TORCH_INDEX in the environment names where to find it. Raises PeerError.
    """
    home, torch_pin = folder / name, f"torch=={metadata.version('torch')}\n"
    cached_folder(home, requirements(name) + torch_pin, lambda: _install(name, home, torch_pin))
    return home / "bin" / "python"


def _install(name: str, home: Path, torch_pin: str) -> None:
    print(f"installing {name} into {home}", flush=True)
    constraints = home / "constraints.txt"
    constraints.write_text(torch_pin)
    index = os.environ.get("TORCH_INDEX")
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--extra-index-url", index] if index else []
    _call([sys.executable, "-m", "venv", str(home)], home)
    _call([*pip, "-r", str(REQUIREMENTS / f"{name}.txt"), "-c", str(constraints)], home)
    for package in ("torchvision", "torchaudio", "torchcodec"):
        _remove_broken(package, home)


def _remove_broken(package: str, home: Path) -> None:
    """Take away what was built for another torch; these engines serve text without it."""
    python = str(home / "bin" / "python")
    probe = [python, "-c", f"import {package}"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        _call([python, "-m", "pip", "uninstall", "-y", package], home)


def _call(command: list[str], home: Path) -> None:
    log = home / "install.log"
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            code = process.wait(INSTALL_LIMIT_S)
        except BaseException as error:
            # the compilers that pip started go with it
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise PeerError(f"installing took more than {INSTALL_LIMIT_S:.0f} s") from None
            raise
    if code:
        lines = log.read_text(errors="replace").splitlines()
        errors = [line.strip() for line in lines if line.lstrip().startswith("ERROR")] or lines
        raise PeerError(f"does not install: {errors[-1] if errors else command}")
