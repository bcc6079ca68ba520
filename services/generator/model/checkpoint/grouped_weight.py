"""Matrices of 4 or 8 bits in groups of inputs, as GGUF's types mean them and as we round them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

GROUP_SIZE = 32
_MOST = {4: 15.0, 8: 127.0}


class GroupedWeight(NamedTuple):
    """A matrix [out, in] of which an element is `scale * value + offset`, in float32.

    A scale and an offset are those of `group_size` consecutive inputs, 16 or 32. Values of 4 bits
    lie within 16 numbers, from 0 or from -8 up. `kind` is what a file calls its type.
    """

    values: torch.Tensor  # int8 [out, in]
    scales: torch.Tensor  # float32 [out, groups]
    offsets: torch.Tensor | None  # float32 [out, groups]
    group_size: int
    bits: int
    kind: str = ""

    @staticmethod
    def stacked(parts: "Sequence[GroupedWeight]") -> "GroupedWeight":
        """Return one matrix of the parts' outputs, one after the other.

        Where they differ, it has the most bits, the smallest groups, and offsets if one has them.
        """
        if len(parts) == 1:
            return parts[0]
        group_size = min(part.group_size for part in parts)
        parts = [part._in_groups_of(group_size) for part in parts]
        offsets = None
        if any(part.offsets is not None for part in parts):
            offsets = torch.cat(
                [torch.zeros_like(p.scales) if p.offsets is None else p.offsets for p in parts]
            )
        values = torch.cat([part.values for part in parts])
        scales = torch.cat([part.scales for part in parts])
        bits = max(part.bits for part in parts)
        if bits == 4 and int(values.max()) - int(values.min()) > _MOST[4]:
            bits = 8  # some from 0 up, some from -8 up
        return GroupedWeight(values, scales, offsets, group_size, bits)

    def _in_groups_of(self, group_size: int) -> "GroupedWeight":
        if group_size == self.group_size:
            return self
        groups = -(-self.values.shape[1] // group_size)
        given = torch.arange(groups) * group_size // self.group_size
        offsets = None if self.offsets is None else self.offsets[:, given]
        scales = self.scales[:, given]
        return self._replace(scales=scales, offsets=offsets, group_size=group_size)

    def reordered(self, rows: torch.Tensor) -> "GroupedWeight":
        """Return the matrix of these outputs, int64 indices, in their order."""
        offsets = None if self.offsets is None else self.offsets[rows]
        return self._replace(values=self.values[rows], scales=self.scales[rows], offsets=offsets)

    @classmethod
    def quantized(cls, weight: torch.Tensor, bits: int) -> "GroupedWeight":
        """Round a float matrix [out, in] in groups of 32 inputs, to the nearest.

        8 bits are symmetric; 4 bits reach from each group's least to its largest. Scales and
        offsets are rounded to float16 first.
        """
        rows, columns = weight.shape
        groups = -(-columns // GROUP_SIZE)
        padded = torch.nn.functional.pad(weight.float(), (0, groups * GROUP_SIZE - columns))
        x = padded.view(rows, groups, GROUP_SIZE)
        if bits == 8:
            scales, offsets = _half(x.abs().amax(2) / _MOST[bits]), None
            centred = x
        else:
            # zeros that fill the last group up do no harm: rows hold zeros there
            offsets = _half(x.amin(2))
            scales = _half((x.amax(2) - offsets) / _MOST[bits])
            centred = x - offsets.unsqueeze(2)
        inverse = torch.where(scales > 0, 1.0 / scales, 0.0).unsqueeze(2)
        least = -_MOST[bits] if bits == 8 else 0.0
        values = (centred * inverse).round_().clamp_(least, _MOST[bits]).to(torch.int8)
        values = values.view(rows, -1)[:, :columns].contiguous()
        return cls(values, scales, offsets, GROUP_SIZE, bits)

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        rows, columns = self.values.shape
        return rows, columns

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the matrix [out, in], each element rounded to `dtype` once."""
        wide = torch.promote_types(dtype, torch.float32)
        weight = self.values.to(wide).mul_(self._of_each_input(self.scales))
        if self.offsets is not None:
            weight += self._of_each_input(self.offsets)
        return weight.to(dtype)

    def _of_each_input(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(self.group_size, 1)[:, : self.values.shape[1]]


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float16).float()
