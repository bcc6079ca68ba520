"""The generator on the GPU where there is one, elsewhere on the CPU by Triton's interpreter."""

import logging
import os
from collections.abc import Iterator
from importlib import util

import pytest
import torch

from services.generator.gpu.device import CudaDevice, Device, HostDevice

IS_GPU = torch.cuda.is_available()
if not IS_GPU:
    # read when a kernel's module is imported, which the tests beside this file do later
    os.environ["TRITON_INTERPRET"] = "1"

# a machine with a GPU may have nothing but what the engine needs
collect_ignore = (
    [] if util.find_spec("transformers") else ["test_families.py", "test_packed_checkpoint.py"]
)


@pytest.fixture
def device() -> Device:
    """Where the kernels run."""
    return CudaDevice() if IS_GPU else HostDevice()


@pytest.fixture(autouse=True)
def nothing_fails_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The engine outlives what a step raises, and the runner what it launches ahead: both log it.

    A test that brings it about clears the log.
    """
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.levelno >= logging.ERROR] == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` need a device: recordings, bfloat16, what the compiler makes."""
    if IS_GPU:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)
