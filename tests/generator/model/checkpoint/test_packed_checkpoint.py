"""Checkpoints of four bits give the logits of the floats that they stand for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.generator.model.checkpoint.packed_checkpoint import read_packed
from services.generator.model.checkpoint.safetensors import Checkpoint
from services.generator.model.checkpoint.weight_format import WeightFormat
from services.generator.model.errors import ModelError, WeightError
from tests.generator.backend.gpu.triton.packing import quantised
from tests.generator.model.conftest import save
from tests.generator.model.cpu_model import load_model
from tests.generator.model.family_models import SAMPLES
from tests.generator.model.test_families import last_logits
from tests.generator.tiny import write_checkpoint

FLOATS = ("embed", "wte", "wpe", "lm_head", "mlp.gate.weight")
FORMATS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq", "desc_act": True},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True},
}
LAYOUTS = pytest.mark.parametrize("layout", FORMATS)
Q, K = "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


def quantise(folder: Path, layout: str, group: int | None = None) -> tuple[Path, Path]:
    """Return two copies with other matrices: packed, and the same as floats."""
    torch.manual_seed(5)
    raw = json.loads((folder / "config.json").read_text())
    is_transposed = raw["architectures"] == ["GPT2LMHeadModel"]
    packed: dict[str, torch.Tensor] = {}
    floats: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim != 2 or any(part in name for part in FLOATS):
            packed[name] = floats[name] = tensor
            continue
        rows, columns = tensor.t().shape if is_transposed else tensor.shape
        size = group or columns
        cpu, offset = torch.device("cpu"), int(layout == "gptq")
        given, weight = quantised(rows, columns, size, layout == "awq", cpu, offset)
        given["scales"] /= 16  # exactly
        weight = (weight / 16).float()
        floats[name] = (weight.t() if is_transposed else weight).contiguous()
        stem = name.removesuffix(".weight")
        packed |= {f"{stem}.{part}": value for part, value in given.items()}
        if layout != "awq":
            packed[f"{stem}.g_idx"] = torch.arange(columns, dtype=torch.int32) // size
    form = FORMATS[layout] | {"group_size": group or -1}
    return (
        write(folder, "packed", packed, raw | {"quantization_config": form}),
        write(folder, "floats", floats, raw),
    )


def write(folder: Path, name: str, tensors: dict[str, torch.Tensor], raw: dict[str, Any]) -> Path:
    copy = folder.parent / f"{folder.name}-{name}"
    shutil.copytree(folder, copy)
    save_file(tensors, copy / "model.safetensors")
    (copy / "config.json").write_text(json.dumps(raw))
    return copy


def logits(folder: Path, *given: Any, **options: Any) -> torch.Tensor:
    return last_logits(load_model(folder, *given, **options), [5, 6, 7, 8, 9], (3, 2))


@LAYOUTS
def test_logits_are_those_of_the_floats(layout: str, tmp_path: Path) -> None:
    """But for the order of rounding, where rows stay floats."""
    packed, floats = quantise(write_checkpoint(tmp_path / "llama"), layout, 32)
    actual, expected = logits(packed, "float32", exact=True), logits(floats, "float32")
    assert actual.isfinite().all() and actual.std() > 0
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@LAYOUTS
@pytest.mark.parametrize("group", [32, 64, None])
def test_groups_mean_what_the_words_do(layout: str, group: int | None, tmp_path: Path) -> None:
    """Bit for bit, whatever inputs share a scale: products take groups of 32."""
    packed, _ = quantise(write_checkpoint(tmp_path / "llama"), layout, group)
    size = load_file(packed / "model.safetensors")[f"{Q}.scales"].shape
    weight_format = WeightFormat(FORMATS[layout].get("checkpoint_format", "awq"), group)
    inputs = size[0] * group if group else 64
    weight = read_packed(Checkpoint(packed), weight_format, [Q], inputs, [size[1]])
    assert weight.grouped().group_size == 32
    assert torch.equal(
        weight.grouped().dequantized(torch.float32), weight.dequantized(torch.float32)
    )


@LAYOUTS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_eight_bits_give_nearly_the_same(layout: str, dtype: str, tmp_path: Path) -> None:
    """By default rows are rounded on their way into a product of packed weights."""
    packed, floats = quantise(write_checkpoint(tmp_path / "llama"), layout, 32)
    actual, expected = logits(packed, dtype), logits(floats, dtype)
    assert (actual - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.parametrize("layout", ["gptq", "awq"])
@pytest.mark.parametrize("family", ["qwen2", "phi3", "qwen3_moe", "gpt2"])
def test_families_are_packed_as_they_are_named(family: str, layout: str, tmp_path: Path) -> None:
    """Biases, tensors stored stacked, experts with a float router, matrices stored transposed."""
    folder = tmp_path / family
    save(SAMPLES[family].build(), folder)
    packed, floats = quantise(folder, layout)
    actual, expected = logits(packed, exact=True), logits(floats)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@LAYOUTS
def test_the_weights_are_counted_unpacked(layout: str, tmp_path: Path) -> None:
    """So that the memory they will take is known before: four bits each, and floats beside."""
    packed, floats = quantise(write_checkpoint(tmp_path / "llama"), layout, 32)
    sizes = [[*Checkpoint(folder).sizes()] for folder in (packed, floats)]
    counts = [sum(each.num_values for each in some) for some in sizes]
    assert counts[0] == counts[1]
    assert {each.bits for each in sizes[0]} == {4, None}
    assert {each.bits for each in sizes[1]} == {None}


def reversed_order(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{Q}.g_idx"] = tensors[f"{Q}.g_idx"].flip(0).contiguous()


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def cut(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: tensors[name][:-1].contiguous()})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (reversed_order, f"{Q}.g_idx"),
        (without(f"{Q}.g_idx"), f"{Q}.g_idx"),
        (without(f"{K}.qweight"), f"{K}.qweight"),
        (without(f"{Q}.qweight"), f"{Q}.weight"),
        (without(f"{K}.qzeros"), f"{K}.qzeros"),
        (cut(f"{K}.scales"), f"{K}.scales"),
        (cut(f"{K}.qweight"), f"{K}.qweight"),
        (lambda t: t.update({f"{K}.qzeros": t[f"{K}.qzeros"].long()}), f"{K}.qzeros"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    change: Callable[[dict[str, torch.Tensor]], None], field: str, tmp_path: Path
) -> None:
    """Groups of inputs that lie apart too, since the products read them side by side."""
    packed, _ = quantise(write_checkpoint(tmp_path / "llama"), "gptq", 32)
    tensors = load_file(packed / "model.safetensors")
    change(tensors)
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(WeightError) as caught:
        load_model(packed)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("in_size", "out_size", "field"),
    [(48, 64, "quantization_config.group_size"), (64, 12, "x.qweight")],
)
def test_sizes_that_cannot_be_packed_are_named(
    in_size: int, out_size: int, field: str, checkpoint: Path
) -> None:
    """Inputs in whole groups, outputs in whole words."""
    with pytest.raises(ModelError) as caught:
        read_packed(Checkpoint(checkpoint), WeightFormat("gptq", 32), ["x"], in_size, [out_size])
    assert caught.value.field == field


def test_packed_tensors_without_a_format_are_not_read(tmp_path: Path) -> None:
    """Nothing tells what their bits mean."""
    packed, _ = quantise(write_checkpoint(tmp_path / "llama"), "awq", 32)
    raw = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(raw | {"quantization_config": None}))
    with pytest.raises(WeightError, match="missing"):
        load_model(packed)
