"""The tensors of a safetensors checkpoint by name, memory-mapped, in one file or in shards."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.packed_weight import VALUES
from services.generator.model.errors import WeightError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


# beside packed words: what groups of values take is known by the values
_BESIDE_PACKED = (".qzeros", ".scales", ".g_idx")


class TensorSize(NamedTuple):
    """A tensor's elements, and the bits of each that a product keeps; None for floats."""

    name: str
    num_values: int
    bits: int | None
    is_matrix: bool


class Weights(Protocol):
    """Tensors by name, from wherever they come."""

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor; WeightError if absent or of another shape."""
        ...

    def grouped(self, name: str, *shape: int) -> GroupedWeight | None:
        """Return a matrix of 4 or 8 bits in groups, None if it is floats; WeightError as above."""
        ...

    def sizes(self) -> Iterable[TensorSize]:
        """Yield the size of each tensor, before any is read; a packed word is eight elements."""
        ...

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return what all tensors take where floats become `dtype` and packed words stay."""
        ...


class Checkpoint:
    """Opens each shard once; a tensor's pages are read when it is first used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, Any] = {}
        self._shard_by_name = self._read_index()

    def __contains__(self, name: str) -> bool:
        return name in self._shard_by_name

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor backed by the file; WeightError if absent or of another shape."""
        if name not in self._shard_by_name:
            raise WeightError(name, f"is missing from {self._folder}")
        tensor: torch.Tensor = self._open(self._shard_by_name[name]).get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise WeightError(name, f"has shape {tuple(tensor.shape)}, expected {shape}")
        return tensor

    def grouped(self, name: str, *shape: int) -> None:
        """Return None: these files have floats, or what `packed_checkpoint` reads."""

    def sizes(self) -> Iterator[TensorSize]:
        """Yield the size of each tensor, from the files' headers."""
        for name, shard in self._shard_by_name.items():
            shape = self._open(shard).get_slice(name).get_shape()
            if name.endswith(".qweight"):
                yield TensorSize(name, math.prod(shape) * VALUES, 4, True)
            elif not name.endswith(_BESIDE_PACKED):
                yield TensorSize(name, math.prod(shape), None, len(shape) > 1)

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return what all tensors take where floats become `dtype` and packed words stay."""
        slices = (self._open(shard).get_slice(name) for name, shard in self._shard_by_name.items())
        return sum(
            math.prod(each.get_shape()) * (4 if each.get_dtype() == "I32" else dtype.itemsize)
            for each in slices
        )

    def _read_index(self) -> dict[str, str]:
        if (self._folder / _INDEX).is_file():
            try:
                weight_map = json.loads((self._folder / _INDEX).read_text())["weight_map"]
                return {str(name): str(shard) for name, shard in weight_map.items()}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise WeightError(_INDEX, "has no usable weight_map") from error
        return dict.fromkeys(self._open(_SINGLE).keys(), _SINGLE)

    def _open(self, shard: str) -> Any:
        if shard not in self._shards:
            try:
                self._shards[shard] = safe_open(self._folder / shard, framework="pt")
            except (OSError, SafetensorError) as error:
                raise WeightError(shard, f"cannot be read from {self._folder}: {error}") from error
        return self._shards[shard]

    def __repr__(self) -> str:
        return f"Checkpoint({str(self._folder)!r}, {len(self._shard_by_name)} tensors)"
