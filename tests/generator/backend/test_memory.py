"""How large the KV cache becomes."""

import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.generator.backend import memory
from services.generator.backend.cpu import loading as cpu_loading
from services.generator.backend.memory import (
    available_memory_bytes,
    check_weights,
    is_out_of_memory,
    plan_num_blocks,
    raising_out_of_memory,
)
from services.generator.engine import EngineConfig, EngineConfigError
from services.generator.engine.errors import OutOfMemoryError
from services.generator.loading import load_engine


def test_the_default_serves_all_sequences_at_full_length() -> None:
    """With memory to spare there are blocks for max_num_seqs whole contexts."""
    config = EngineConfig(Path("unused"), max_num_seqs=3, block_size=16)
    assert plan_num_blocks(config, context_length=100, block_bytes=64) == 3 * 7


def test_free_memory_caps_the_default() -> None:
    """Contexts that cannot fit take a share of the free memory, not all of it."""
    config = EngineConfig(Path("unused"))
    num_blocks = plan_num_blocks(config, context_length=10**9, block_bytes=2**20)
    assert 0 < num_blocks * 2**20 < 0.6 * available_memory_bytes()


def test_an_explicit_size_is_taken_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """A chosen size is divided into whole blocks, and the arithmetic is one log line."""
    caplog.set_level(logging.INFO)
    config = EngineConfig(Path("unused"), kv_cache_bytes=1000)
    assert plan_num_blocks(config, context_length=64, block_bytes=300) == 3
    assert len(caplog.records) == 1
    assert "3 blocks x 16 tokens" in caplog.text


def test_a_size_below_one_block_is_refused() -> None:
    """The refusal names the option."""
    config = EngineConfig(Path("unused"), kv_cache_bytes=100)
    with pytest.raises(EngineConfigError, match="kv_cache_bytes"):
        plan_num_blocks(config, context_length=64, block_bytes=101)


def test_weights_that_do_not_fit_are_refused() -> None:
    """Before anything is loaded, and the refusal tells what there is."""
    config = EngineConfig(Path("unused"))
    with pytest.raises(EngineConfigError, match=r"model: its weights take .* are free"):
        plan_num_blocks(config, 64, 64, weight_bytes=2 * available_memory_bytes())


def test_a_cache_that_does_not_fit_beside_the_weights_is_refused() -> None:
    """A chosen size must leave room for the weights; the refusal names the option."""
    size = int(0.7 * available_memory_bytes())
    config = EngineConfig(Path("unused"), kv_cache_bytes=size)
    assert plan_num_blocks(config, 64, 64) == size // 64
    with pytest.raises(EngineConfigError, match=r"kv_cache_bytes: .* do not fit"):
        plan_num_blocks(config, 64, 64, weight_bytes=size)


def test_a_container_bounds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit counts where it is less than the machine's; its cached files count as free."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine_bytes = available_memory_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes() == pytest.approx(machine_bytes, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("active_file 7\ninactive_file 500\n")
    assert available_memory_bytes() == 2500


def test_a_model_that_does_not_fit_is_not_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes before the first weight, by the sizes in the files' headers."""
    num_bytes = 4 * sum(t.numel() for t in load_file(checkpoint / "model.safetensors").values())
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: num_bytes - 1)
    monkeypatch.setattr(cpu_loading, "load_model", lambda *_: pytest.fail("the model was read"))
    with pytest.raises(EngineConfigError, match="model: its weights"):
        load_engine(EngineConfig(checkpoint))


def test_memory_that_is_gone_while_loading_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation that fails all the same names the model; other faults stay what they are."""

    def burn(*_: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(cpu_loading, "load_model", burn)
    text = "DefaultCPUAllocator: can't allocate memory"
    with pytest.raises(EngineConfigError, match="model: does not fit"):
        load_engine(EngineConfig(checkpoint))
    text = "another fault"
    with pytest.raises(RuntimeError, match="another fault"):
        load_engine(EngineConfig(checkpoint))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_known_by_its_words(error: Exception, expected: bool) -> None:
    """Libraries raise RuntimeErrors for it; other faults are faults."""
    assert is_out_of_memory(error) is expected


def test_want_of_memory_is_raised_as_the_engines_own_error() -> None:
    """The engine asks no library what its errors mean; what the batch had made is let go."""
    with pytest.raises(OutOfMemoryError, match="out of memory"), raising_out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ValueError, match="other"), raising_out_of_memory():
        raise ValueError("other")


SIZES = {"quantization int8": 10 * 2**20, "quantization int4": 6 * 2**20}


@pytest.mark.parametrize(
    ("free_mib", "message"),
    [
        (39, "at least 40.0 MiB, 39.0 MiB are free; with quantization int8 they take 10.0 MiB"),
        (9, "at least 40.0 MiB, 9.0 MiB are free; with quantization int4 they take 6.0 MiB"),
        (5, "5.0 MiB are free; even with quantization int4 they take 6.0 MiB"),
    ],
)
def test_weights_that_do_not_fit_say_what_would(free_mib: int, message: str) -> None:
    """The least memory and the next smaller format, else that no format is small enough."""
    with pytest.raises(EngineConfigError, match=re.escape(message)):
        check_weights(40 * 2**20, free_mib * 2**20, SIZES)
    check_weights(40 * 2**20, 40 * 2**20, SIZES)
    with pytest.raises(EngineConfigError, match=r"are free$"):
        check_weights(40 * 2**20, 5 * 2**20, {})
