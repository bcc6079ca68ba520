"""Prints what pip installs for one service, so that an image can hold it in a layer of its own.

`python requirements.py` prints the mesh's dependencies, `python requirements.py EXTRA` those of
one extra. The source is no part of that layer: editing it must not install everything again.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extra: str | None) -> list[str]:
    """The requirement lines of the project or of one extra; KeyError names an unknown extra."""
    project = tomllib.loads(pyproject.read_text())["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return list(listed)


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else None
    print("\n".join(requirements(Path("pyproject.toml"), wanted)))
