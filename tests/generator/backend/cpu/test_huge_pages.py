"""Tensors side by side in large mappings."""

import gc
import mmap

import pytest
import torch

from services.generator.backend.cpu.huge_pages import HugePages


def test_tensors_are_zeroed_aligned_and_do_not_overlap() -> None:
    """Of any shape and type, from one mapping until it is full."""
    memory = HugePages(2**16)
    tensors = [
        memory.zeros(shape, dtype)
        for shape, dtype in (
            ((3, 5), torch.bfloat16),
            ((7,), torch.float32),
            ((2, 2, 2), torch.uint8),
            ((100, 300), torch.float32),  # more than is left
            ((0, 4), torch.int64),
        )
    ]
    for number, tensor in enumerate(tensors, start=1):
        assert tensor.data_ptr() % 64 == 0 or not tensor.numel()
        assert not tensor.any()
        tensor.fill_(number)
    for number, tensor in enumerate(tensors, start=1):
        assert bool((tensor == number).all())


def test_a_mapping_begins_at_a_huge_page() -> None:
    """The first tensor of one does."""
    assert HugePages(0).zeros((10,), torch.float32).data_ptr() % 2**21 == 0


def test_a_tensor_outlives_who_handed_it_out() -> None:
    """Its mapping stays as long as it does."""
    memory = HugePages(2**16)
    first = memory.zeros((10,), torch.float32)
    del memory
    gc.collect()
    first.fill_(1.0)
    assert first.sum() == 10


def test_too_much_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal is one that callers know."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError):
        HugePages(0).zeros((10,), torch.float32)
