"""Tensors that a model would leave out, and scales that would poison it."""

from pathlib import Path

import numpy as np
import pytest

from mesh.gguf import GGUFFile, Tensor
from services.generator.model.checkpoint.gguf.gguf_config import model_config
from services.generator.model.checkpoint.gguf.weights import GGUFWeights
from services.generator.model.errors import WeightError
from tests.generator.model.checkpoint.gguf.converted import Quantization, convert
from tests.generator.model.conftest import save
from tests.generator.model.family_models import SAMPLES

NAMES = [
    "blk.0.ffn_gate_inp.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_sinks.weight",
    "cls.weight", "blk.4.attn_norm.weight", "attn_norm.weight", "blk.0.token_embd.weight",
    "blk.1.attn_output.bias", "blk.0.attn_norm.bias", "output_norm.bias", "output.bias",
]  # fmt: skip


def read(folder: Path, name: str, kind: Quantization = Quantization.F32) -> GGUFFile:
    save(SAMPLES[name].build(), folder / "checkpoint")
    return GGUFFile.read(convert(folder / "checkpoint", folder / "model.gguf", kind))


def more(file: GGUFFile, name: str, tensor: Tensor) -> GGUFFile:
    return GGUFFile(file.metadata, {**file.tensors, name: tensor})


@pytest.mark.parametrize("name", NAMES)
def test_what_the_model_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    """A tensor, a bias or a layer that nothing reads is named before anything is loaded."""
    file = read(tmp_path, "llama")
    with pytest.raises(WeightError) as refused:
        model_config(more(file, name, file.tensors["output_norm.weight"]))
    assert refused.value.field == name


def test_a_dense_matrix_beside_experts_is_refused(tmp_path: Path) -> None:
    """Where every layer is a mixture, a shared matrix would be left out."""
    file = read(tmp_path, "mixtral")
    name = "blk.0.ffn_up.weight"
    with pytest.raises(WeightError) as refused:
        model_config(more(file, name, file.tensors["output_norm.weight"]))
    assert refused.value.field == name


@pytest.mark.parametrize("shape", [(), (0,), (64, 0)])
def test_an_empty_tensor_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A tensor without elements is named."""
    file = read(tmp_path, "llama")
    empty = file.tensors["output_norm.weight"]._replace(shape=shape)
    with pytest.raises(WeightError) as refused:
        model_config(more(file, "output_norm.weight", empty))
    assert refused.value.field == "output_norm.weight"


@pytest.mark.parametrize("number", [0x7C00, 0xFC00, 0x7E01])
@pytest.mark.parametrize("place", [0, 2])
def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path, number: int, place: int) -> None:
    """Infinite scales and minima, or none that are numbers, would make every answer nothing."""
    file = read(tmp_path, "llama", Quantization.Q4_1)
    name = "blk.0.attn_q.weight"
    data = np.frombuffer(file.tensors[name].data, np.uint8).copy()
    data[place : place + 2] = np.array([number], np.uint16).view(np.uint8)
    damaged = file.tensors[name]._replace(data=memoryview(data.tobytes()))
    weights = GGUFWeights(more(file, name, damaged))
    for take in (weights.tensor, weights.grouped):
        with pytest.raises(WeightError, match="has a scale that is not a finite number") as refused:
            take(name, 64, 64)
        assert refused.value.field == name
