"""Which files of a hub's repository make a model, and by what hash each is known."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cli.models.errors import PullError
from cli.models.reference import Reference

# of a folder: what our services read
_WANTED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "model.safetensors.index.json",
)  # fmt: skip
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_CHUNK_BYTES = 2**20


class HubFile(NamedTuple):
    """A file of a repository; `digest` is SHA-256 where it is kept in LFS, else git's blob id."""

    path: str
    num_bytes: int
    digest: str
    is_lfs: bool

    @property
    def name(self) -> str:
        """What it is called here: a model's files lie beside each other."""
        return PurePosixPath(self.path).name

    def is_at(self, path: Path) -> bool:
        """Return whether a file has all of its bytes, by their hash."""
        if not path.is_file() or path.stat().st_size != self.num_bytes:
            return False
        digest = hashlib.sha256() if self.is_lfs else hashlib.sha1(usedforsecurity=False)
        if not self.is_lfs:
            digest.update(b"blob %d\0" % self.num_bytes)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == self.digest


def choose_files(sizes: Mapping[str, int], reference: Reference) -> list[str]:
    """Return which of a repository's files make the model; raises PullError with the choices."""
    if reference.file is not None:
        if reference.file not in sizes:
            raise PullError(f"{reference.repo} has no file {reference.file}")
        return _shards(sizes, reference)
    weights = _weights(sizes)
    if weights and "config.json" in sizes:
        return [*(name for name in _WANTED if name in sizes), *weights]
    models = _models(sizes, reference.repo)
    if len(models) == 1:
        return next(iter(models.values()))
    if not models:
        problem = "has neither GGUF files nor safetensors with a config.json"
        raise PullError(f"{reference.repo} {problem}")
    megabytes = {first: sum(sizes[each] for each in names) / 1e6 for first, names in models.items()}
    lines = [f"  {reference.repo}:{first}  {size:,.0f} MB" for first, size in megabytes.items()]
    raise PullError("\n".join([f"{reference.repo} has several models, name one of them:", *lines]))


def _weights(sizes: Mapping[str, int]) -> list[str]:
    """Return a checkpoint's safetensors; other copies of its weights may lie beside them."""
    names = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    return [name for name in names if name.startswith("model")] or names


def _models(sizes: Mapping[str, int], repo: str) -> dict[str, list[str]]:
    """Return the files of each GGUF model by the first of them."""
    models = {}
    for name in sorted(each for each in sizes if each.endswith(".gguf")):
        names = _shards(sizes, Reference(repo, name))
        models[names[0]] = names
    return models


def _shards(sizes: Mapping[str, int], reference: Reference) -> list[str]:
    """Return all files of the model that one of its files names; raises PullError."""
    assert reference.file is not None, "a reference to a folder has no shards. This is a bug."
    match = _SHARD.search(reference.file)
    if match is None:
        return [reference.file]
    stem, total = reference.file[: match.start()], int(match[1])
    names = [f"{stem}-{number:05}-of-{total:05}.gguf" for number in range(1, total + 1)]
    missing = next((name for name in names if name not in sizes), None)
    if missing is not None:
        problem = f"is one of {total} files, and {missing} is missing"
        raise PullError(f"{reference.repo}:{reference.file} {problem}")
    return names or [reference.file]
