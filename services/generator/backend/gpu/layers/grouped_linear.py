"""Linear layers of weights in groups of 32 inputs, as GGUF files have them or rounded at load."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generator.backend.gpu.layers.quantized_linear import QuantizedLinear
from services.generator.backend.gpu.triton.linear.int4_packing import (
    BLOCK,
    fits_units,
    pack_int4,
    pack_words,
)
from services.generator.backend.gpu.triton.linear.linear_w4a16 import linear_w4a16
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.linear import Linear


class GroupedLinear(QuantizedLinear):
    """Four-bit weights, the outputs of one after those of the other; rows stay as they are (W4A16).

    A weight keeps every bit of its scales and offsets.
    """

    def __init__(
        self, weights: Sequence[GroupedWeight], bias: torch.Tensor | None, device: torch.device
    ) -> None:
        super().__init__((sum(each.shape[0] for each in weights), weights[0].shape[1]), bias)
        groups = [_Groups.of(each, device) for each in weights]
        if all(each.has_units for each in groups):
            packed = [pack_int4(each.values, each.zeros, each.scales) for each in groups]
            words, units = map(list, zip(*packed, strict=True))
        else:
            words = [pack_words(each.values) for each in groups]
            units = _pairs(groups)
        self._words, self._units = torch.cat(words, 1), torch.cat(units, 1)

    @staticmethod
    def takes(weight: GroupedWeight) -> bool:
        """Return whether the weight is in four bits and its groups are the kernel's."""
        return weight.bits == 4 and weight.group_size == BLOCK

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] of float32, float16 or bfloat16 to [T, out] of the same."""
        return linear_w4a16(x, self._words, self._units, self._bias)


class _Groups(NamedTuple):
    """A weight on the device: an element is `scale * (value - zero)`, plus the offset if any."""

    values: torch.Tensor  # int8 [in, out], from 0 to 15
    scales: torch.Tensor  # float32 [groups, out]
    offsets: torch.Tensor | None
    zero: int

    @classmethod
    def of(cls, weight: GroupedWeight, device: torch.device) -> "_Groups":
        values, scales = weight.values.to(device).t(), weight.scales.to(device).t()
        offsets = None if weight.offsets is None else weight.offsets.to(device).t()
        zero = 8 if bool((values < 0).any()) else 0
        return cls(values + zero, scales, offsets, zero)

    @property
    def has_units(self) -> bool:
        """Whether an integer zero says it all, and the scale fits beside it."""
        return self.offsets is None and fits_units(self.scales)

    @property
    def zeros(self) -> torch.Tensor:
        """The zero of each group, int32."""
        return torch.full_like(self.scales, self.zero, dtype=torch.int32)

    @property
    def pairs(self) -> torch.Tensor:
        """Scales and the offsets from values of 0, float32 [groups, out, 2]."""
        # eight times a scale has all its bits
        shift = self.scales * -self.zero
        offsets = shift if self.offsets is None else self.offsets + shift
        return torch.stack((self.scales, offsets), -1)


def _pairs(groups: Sequence[_Groups]) -> list[torch.Tensor]:
    """Return the weights' pairs, in float16 where it holds all of them."""
    wide = [each.pairs for each in groups]
    halves = [each.half() for each in wide]
    exact = all(torch.equal(half.float(), pair) for half, pair in zip(halves, wide, strict=True))
    return halves if exact else wide


class SideBySide:
    """Linear layers of the same inputs, the outputs of one after those of the other."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        self._linears = tuple(linears)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        return torch.cat([linear(x) for linear in self._linears], -1)

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual`, to which `self(x)` was added in place."""
        return residual.add_(self(x))

    def __repr__(self) -> str:
        return f"SideBySide({', '.join(map(repr, self._linears))})"
