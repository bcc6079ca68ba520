"""What importing a package brings into a fresh interpreter, its `__init__` files included."""

import subprocess
import sys

import pytest

# each with the top-level modules that must stay out
TABLE = [
    ("services.gateway.domain", ("grpc", "aiohttp", "nats")),
    ("services.gateway.pipeline", ("grpc", "aiohttp", "nats")),
]

# imports every module of a package, then names those that are loaded and must not be
PROGRAM = """
import importlib, pkgutil, sys
name, *forbidden = sys.argv[1:]
package = importlib.import_module(name)
for module in pkgutil.walk_packages(package.__path__, name + "."):
    importlib.import_module(module.name)
print(*sorted(set(forbidden) & sys.modules.keys()))
"""


def loaded(package: str, forbidden: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, package, *forbidden]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("package", "forbidden"), TABLE, ids=[package for package, _ in TABLE])
def test_a_package_stays_free_of(package: str, forbidden: tuple[str, ...]) -> None:
    """All modules of the package import without loading any of these."""
    assert loaded(package, forbidden) == []


def test_a_forbidden_module_is_seen() -> None:
    """The check itself finds what is there."""
    assert loaded("services.gateway.http", ("aiohttp", "nats")) == ["aiohttp"]
