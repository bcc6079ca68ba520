"""Quantisation of rows to int8, symmetric per row."""

import torch

_LARGEST = 127.0


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 [rows, columns] and the float32 value [rows] of one unit in each row.

    A row that is not finite gets a unit that is not, so that its products are not either.
    """
    x = x.float()
    largest = x.abs().amax(dim=1)
    # a tensor, because torch divides a number by way of the reciprocal, which rounds twice
    inverse = torch.where(largest > 0, torch.tensor(_LARGEST) / largest, 0.0)
    data = (x * inverse.unsqueeze(1)).round_().nan_to_num_(0.0).to(torch.int8)
    return data, largest / _LARGEST
