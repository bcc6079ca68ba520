"""Imports modules as where nothing but torch, triton, safetensors, tokenizers and numpy is.

    python -m tests.generator.minimal_imports services.generator.backend.gpu.triton bench.gpu

Packages stand for all their modules. Prints the names of what was imported, and the errors. A
process of its own, because what is imported once is not looked for again.
"""

import importlib
import pkgutil
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
ALLOWED = {"torch", "triton", "safetensors", "tokenizers", "numpy"}


def main() -> int:
    """Import what the arguments name; return 1 where something did not import."""
    sys.meta_path.insert(0, Absent(refused()))
    done = [is_imported(module) for name in sys.argv[1:] for module in modules(name)]
    return 0 if all(done) else 1


def is_imported(name: str) -> bool:
    """Import a module; print its name, or why it does not import."""
    try:
        importlib.import_module(name)
    except ImportError:
        traceback.print_exc()
        return False
    print(name)
    return True


def modules(name: str) -> Iterator[str]:
    """Yield the module's name, then, when that is imported, those of all modules below it."""
    yield name
    path = getattr(sys.modules.get(name), "__path__", ())
    yield from (found.name for found in pkgutil.walk_packages(path, f"{name}."))


def refused() -> set[str]:
    """Return the top-level modules of what `pyproject.toml` names in any extra and is not allowed.

    Modules are told by what is installed; what is not installed cannot be imported anyway.
    """
    project = tomllib.loads(PROJECT.read_text())["project"]
    requirements = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {normalised(requirement) for requirement in requirements} - ALLOWED
    return {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not names.isdisjoint(map(normalised, distributions))
    }


def normalised(requirement: str) -> str:
    """Return a requirement's name as PEP 503 compares names."""
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


class Absent:
    """A finder that knows of some modules that they are not installed."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise for these modules and what is in them; leave all others to the next finder."""
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.exit(main())
