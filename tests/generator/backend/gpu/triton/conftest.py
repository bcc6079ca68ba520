"""Kernels run on the GPU where there is one, elsewhere in Triton's interpreter."""

from collections.abc import Iterator

import pytest
import torch

from tests.generator.interpreter import IS_GPU


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` without a device: bfloat16 products, long contexts, large offsets."""
    if IS_GPU:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device: the interpreter is wrong or too slow here")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if IS_GPU else "cpu")


@pytest.fixture(autouse=True)
def nan_filled() -> Iterator[None]:
    """Fill what kernels leave unwritten with NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
