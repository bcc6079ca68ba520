"""Random weights of a shape, made where they are needed and nowhere kept."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from bench.common.checkpoints import parameter_shapes
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.safetensors import TensorSize
from services.generator.model.errors import WeightError


class RandomWeights:
    """Stands in for a checkpoint: a name has the same values each time, on one kind of device.

    Matrices are normal with a variance of one over what they sum, so that activations stay near
    one; norms are ones.
    """

    def __init__(
        self, config: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._shapes = parameter_shapes(config)
        self._device = torch.device(device)
        self._dtype = dtype

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor on the device; WeightError if absent or of another shape."""
        expected = self._shapes.get(name)
        if expected is None:
            raise WeightError(name, "is not of this shape's model")
        if expected != shape:
            raise WeightError(name, f"has shape {expected}, expected {shape}")
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
        generator = torch.Generator(self._device).manual_seed(int.from_bytes(digest, "big"))
        values = torch.empty(shape, dtype=self._dtype, device=self._device)
        return values.normal_(0.0, shape[-1] ** -0.5, generator=generator)

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(map(math.prod, self._shapes.values()))

    def grouped(self, name: str, *shape: int) -> GroupedWeight | None:
        """Return None: these are floats."""
        return None

    def sizes(self) -> Iterator[TensorSize]:
        """Yield the size of each tensor."""
        for name, shape in self._shapes.items():
            yield TensorSize(name, math.prod(shape), None, len(shape) > 1)

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes that they take as `dtype`."""
        return self.num_parameters * dtype.itemsize

    def __repr__(self) -> str:
        return f"RandomWeights({len(self._shapes)} tensors, {self._dtype}, {self._device})"
