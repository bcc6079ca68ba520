"""The generator on the GPU where there is one, elsewhere on the CPU by Triton's interpreter."""

import logging
from collections.abc import Iterator
from importlib import util

import pytest

from services.generator.backend.gpu.device import CudaDevice, Device, HostDevice
from tests.generator.interpreter import IS_GPU

# a machine with a GPU may have nothing but what the engine needs
collect_ignore = (
    []
    if util.find_spec("transformers") and util.find_spec("gguf")
    else [
        *("test_families.py", "test_gguf.py", "test_packed_checkpoint.py"),
        "layers/test_grouped_linear.py",
    ]
)


@pytest.fixture
def device() -> Device:
    """Where the kernels run."""
    return CudaDevice() if IS_GPU else HostDevice()


@pytest.fixture(autouse=True)
def nothing_fails_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where an error was logged: the engine and the runner outlive what a step raises.

    A test that brings it about clears the log.
    """
    yield
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.levelno >= logging.ERROR] == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` without a device: CUDA graphs, bfloat16, what the compiler makes."""
    if IS_GPU:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)
