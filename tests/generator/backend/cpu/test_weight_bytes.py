"""Memory that weights take on a CPU, known before any is read."""

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from services.generator.backend import memory
from services.generator.backend.cpu import loading as cpu_loading
from services.generator.backend.cpu.native import levels
from services.generator.backend.cpu.weight_bytes import least_bytes, smaller_formats
from services.generator.engine import EngineConfig, EngineConfigError
from services.generator.loading import load_engine
from services.generator.model.checkpoint.model_files import open_weights, read_config
from tests.generator.model.checkpoint.gguf.files import read

compiled = pytest.mark.skipif(levels.current() is None, reason="nothing multiplies groups here")


def sizes(model: Path, quantization: str | None = None) -> int:
    return least_bytes(read_config(model), open_weights(model), 4, quantization)


@compiled
def test_rounding_makes_matrices_smaller(checkpoint: Path) -> None:
    """All but the table of rows, which the head of eight bits comes beside."""
    num_floats = 4 * 96 * 64 + 5 * 4 * 64
    num_matrices = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    head = int(96 * 64 * 1.0625)
    assert sizes(checkpoint) == num_floats + 4 * num_matrices
    assert sizes(checkpoint, "int8") == num_floats + head + int(1.0625 * num_matrices)
    assert sizes(checkpoint, "int4") == num_floats + head + int(0.5625 * num_matrices)


def write_gguf(folder: Path, kind: gguf.GGMLQuantizationType) -> Path:
    """A file of one matrix beside a table in floats."""
    matrix = np.ones((256, 64), np.float32)
    read(folder, tensors={"blk.0.ffn_up.weight": gguf.quantize(matrix, kind)}, block_type=kind)
    return folder


@compiled
def test_groups_of_a_file_stay_as_they_are(tmp_path: Path) -> None:
    """Rounding floats does nothing to them; a file of fewer bits would."""
    names = {}
    for kind in ("Q4_0", "Q8_0"):
        (tmp_path / kind).mkdir()
        model = write_gguf(tmp_path / kind, gguf.GGMLQuantizationType[kind])
        table = 4 * 89 * 64
        assert sizes(model) == table + int(256 * 64 * (0.5625 if kind == "Q4_0" else 1.0625))
        names[kind] = [*smaller_formats(read_config(model), open_weights(model), 4, None)]
    assert names["Q8_0"] == ["a file of 4 bits"]


def test_without_kernels_all_become_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no format is smaller."""
    monkeypatch.setattr(levels, "current", lambda: None)
    model = write_gguf(tmp_path, gguf.GGMLQuantizationType.Q8_0)
    assert sizes(model, "int4") == 4 * (89 * 64 + 256 * 64)
    assert smaller_formats(read_config(model), open_weights(model), 4, None) == {}


@compiled
def test_a_checkpoint_that_does_not_fit_says_what_would(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded; with that it is."""
    free_bytes = sizes(checkpoint, "int8")
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: free_bytes)
    with monkeypatch.context() as patched:
        patched.setattr(cpu_loading, "load_model", lambda *_: pytest.fail("the model was read"))
        with pytest.raises(EngineConfigError, match=re.escape("; with quantization int8 they")):
            load_engine(EngineConfig(checkpoint))
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: free_bytes + 2**20)
    load_engine(EngineConfig(checkpoint, quantization="int8", max_num_seqs=1))
