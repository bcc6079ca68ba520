"""Matrices of four bits as GPTQ (arXiv:2210.17323) and AWQ (arXiv:2306.00978) store them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generator.model.checkpoint.grouped_weight import GROUP_SIZE, GroupedWeight
from services.generator.model.checkpoint.weight_format import Layout

VALUES = 8  # in a word
# Which of its eight values a word holds, from the lowest bits up.
_STRAIGHT = (0, 1, 2, 3, 4, 5, 6, 7)
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


class PackedWeight(NamedTuple):
    """A matrix [out, in] of which an element is `scale * (value - zero)`; in, out are eights.

    A scale and a zero are those of `group_size` consecutive inputs.
    """

    layout: Layout
    qweight: torch.Tensor  # int32 [in / 8, out], for AWQ [in, out / 8]
    qzeros: torch.Tensor  # int32 [groups, out / 8]
    scales: torch.Tensor  # [groups, out] of any float
    group_size: int

    @staticmethod
    def stacked(parts: "Sequence[PackedWeight]") -> "PackedWeight":
        """Return one matrix of the parts' outputs, one after the other; the rest must agree."""
        return parts[0]._replace(
            qweight=torch.cat([part.qweight for part in parts], 1),
            qzeros=torch.cat([part.qzeros for part in parts], 1),
            scales=torch.cat([part.scales for part in parts], 1),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        groups, outputs = self.scales.shape
        return outputs, groups * self.group_size

    @property
    def zero_offset(self) -> int:
        """What is missing from the stored zeros, modulo 16."""
        return 1 if self.layout == "gptq" else 0

    def to(self, device: torch.device) -> "PackedWeight":
        """Return it with its tensors on the device."""
        return self._replace(
            qweight=self.qweight.to(device),
            qzeros=self.qzeros.to(device),
            scales=self.scales.to(device),
        )

    def unpacked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values [in, out] and the zeros [groups, out], int8 from 0 to 15."""
        is_awq = self.layout == "awq"
        order = _AWQ if is_awq else _STRAIGHT
        values = _unpacked(self.qweight, 1 if is_awq else 0, order)
        return values, (_unpacked(self.qzeros, 1, order) + self.zero_offset) % 16

    def grouped(self) -> GroupedWeight:
        """Return the same matrix in groups of 32 inputs; its products round no digit."""
        values, zeros = self.unpacked()
        starts = torch.arange(0, len(values), GROUP_SIZE)
        scales = self.scales.float()
        given = starts // self.group_size  # which of the groups each of ours is part of
        return GroupedWeight(
            values.t().contiguous(),
            scales[given].t().contiguous(),
            (-scales * zeros)[given].t().contiguous(),
            GROUP_SIZE,
            bits=4,
        )

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the matrix [out, in], contiguous, each element rounded to `dtype` once."""
        values, zeros = self.unpacked()
        centred = values.view(len(zeros), self.group_size, -1) - zeros.unsqueeze(1)
        weight = (centred * self.scales.float().unsqueeze(1)).flatten(0, 1)
        return weight.to(dtype).t().contiguous()


def _unpacked(words: torch.Tensor, dim: int, order: tuple[int, ...]) -> torch.Tensor:
    """Return int8 with `dim` eight times as long."""
    places = [order.index(value) for value in range(VALUES)]
    values = [((words >> 4 * place) & 15).to(torch.int8) for place in places]
    return torch.stack(values, dim + 1).flatten(dim, dim + 1)
