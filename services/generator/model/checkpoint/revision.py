"""Revision of a model: what tells two checkpoints of one name apart."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from mesh.gguf import find_gguf, shards

_HASHED_EDGE_BYTES = 2**20
_SUFFIXES = (".json", ".jinja", ".safetensors")


def revision(model: Path) -> str:
    """Return a short hash that changes with the weights, their config or their tokenizer.

    Of each weight file it reads the size and both ends: a checkpoint of 100 GB costs as little.
    """
    digest = hashlib.sha256()
    for path in _files(model):
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_EDGE_BYTES))
            file.seek(max(0, size - _HASHED_EDGE_BYTES))
            digest.update(file.read(_HASHED_EDGE_BYTES))
    return digest.hexdigest()[:16]


def _files(model: Path) -> Iterator[Path]:
    file = find_gguf(model)
    if file is not None:
        yield from shards(file)
        return
    yield from (path for path in sorted(model.iterdir()) if path.suffix in _SUFFIXES)
