"""Tensors that travel between host and device."""

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.transfers import Transfers

COLUMNS = {
    "whole": torch.tensor([1, -(2**63), 3]),
    "none": torch.tensor([], dtype=torch.int64),
    "real": torch.tensor([0.5]),
    "flags": torch.tensor([True, False, True]),
    "short": torch.tensor([7, -8, 9], dtype=torch.int32),
}


@pytest.mark.parametrize("num_bytes", [0, 4096])
def test_what_is_sent_and_fetched_comes_back(device: Device, num_bytes: int) -> None:
    """In each dtype, aligned for the kernels, however little memory there was at first."""
    transfers = Transfers(device, num_bytes)
    sent = transfers.send(COLUMNS)
    assert all(not t.numel() or t.data_ptr() % 16 == 0 for t in sent.values())
    fetched = {name: transfers.fetch(tensor) for name, tensor in sent.items()}
    device.mark()()
    assert fetched.keys() == COLUMNS.keys()
    for name, column in COLUMNS.items():
        assert fetched[name].dtype == column.dtype
        assert torch.equal(fetched[name], column)


def test_memory_is_used_again_three_turns_later(device: Device) -> None:
    """Growth in between keeps what was taken before in the same turn."""
    transfers = Transfers(device, 64)
    addresses = []
    for turn in range(6):
        transfers.turn()
        kept = transfers.take(8, dtype=torch.int64).fill_(turn)
        addresses.append(kept.data_ptr())
        if turn == 1:
            transfers.take(100, 3, dtype=torch.float32).fill_(9.0)
            assert kept.tolist() == [1] * 8
    assert addresses[0] == addresses[3] != addresses[2] == addresses[5]
    assert addresses[4] not in addresses[:4]
