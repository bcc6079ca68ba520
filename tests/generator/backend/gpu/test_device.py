"""CUDA graphs of a device, and pinned memory that copies read by themselves."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from services.generator.backend.gpu.device import Device

Call = Callable[[], None]


def products(device: Device, sizes: list[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return inputs for as many products, and where their results are put."""
    inputs = [torch.randn(size, 64, device=device.device) for size in sizes]
    return inputs, [torch.zeros(size, 64, device=device.device) for size in sizes]


def captured(
    device: Device, inputs: list[torch.Tensor], outs: list[torch.Tensor], weight: torch.Tensor
) -> list[Call]:
    """Return what multiplies each of the inputs anew."""

    def work_on(x: torch.Tensor, out: torch.Tensor) -> Call:
        def work() -> None:
            # what lies between is made and let go in the memory that graphs share
            out.copy_(functional.linear(functional.linear(x, weight), weight))

        return work

    return device.capture(*map(work_on, inputs, outs))


def test_graphs_share_memory_and_stay_apart(device: Device) -> None:
    """Each does its own work again on what its inputs hold then, in any order."""
    weight = torch.eye(64, device=device.device)
    inputs, outs = products(device, [32, 8, 1])
    replays = captured(device, inputs, outs, weight)
    for index in (2, 0, 1, 0):
        inputs[index].normal_()
        replays[index]()
        assert torch.allclose(outs[index], inputs[index])


def test_graphs_are_captured_where_others_are_gone(device: Device) -> None:
    """A device may capture again after all that was captured before has died."""
    weight = torch.eye(64, device=device.device)
    for _ in range(3):
        inputs, outs = products(device, [8, 4])
        replays = captured(device, inputs, outs, weight)
        inputs[1].fill_(3.0)
        replays[1]()
        assert outs[1].eq(3.0).all()
        del replays
        gc.collect()


@pytest.mark.gpu
def test_many_graphs_take_one_workspace(device: Device) -> None:
    """A library's workspace, tens of MiB, is there once and not for each graph."""
    weight = torch.eye(64, device=device.device)
    captured(device, *products(device, [2]), weight)
    before = torch.cuda.memory_reserved()
    captured(device, *products(device, list(range(24, 0, -1))), weight)
    assert torch.cuda.memory_reserved() - before < 2**27


@pytest.mark.gpu
def test_nobody_waits_for_what_is_sent(device: Device) -> None:
    """Neither a copy to the device nor one back waits for the work before it."""
    host = device.host_tensor(2**20, dtype=torch.uint8).fill_(7)
    back = device.host_tensor(2**20, dtype=torch.uint8).zero_()
    there = torch.zeros(2**20, dtype=torch.uint8, device=device.device)
    cuda: Any = torch.cuda
    cuda.synchronize()
    cuda._sleep(10**9)
    there.copy_(host, non_blocking=True)
    back.copy_(there, non_blocking=True)
    wait = device.mark()
    assert not torch.cuda.current_stream().query()
    wait()
    assert back.eq(7).all()
