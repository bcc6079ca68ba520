"""A recorded program gives the bits that its kernels give one by one, at any number of rows."""

import ctypes
import dataclasses
from pathlib import Path

import pytest
import torch

from services.generator.backend.cpu.compiled_layers import CompiledLayers
from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import Program
from services.generator.backend.cpu.rms_norm import RMSNorm
from services.generator.model.layer import LayerByLayer
from tests.generator.backend.cpu.kernels import needs
from tests.generator.model.conftest import save
from tests.generator.model.cpu_model import load_model
from tests.generator.model.family_models import SAMPLES, Sample
from tests.generator.model.test_families import last_logits
from tests.generator.model.test_parity import make_prompts

# experts and layer norms are no kernels
LAYER_BY_LAYER = ("qwen3_moe", "qwen3_moe_normalized", "mixtral", "gpt2")
COMPILED = [name for name in SAMPLES if name not in LAYER_BY_LAYER]
# in one piece; around what is recorded at first; beyond it and then below it
CUTS = ((200,), (1, 1, 60, 70, 5, 1, 62), (130, 1, 1, 68))


def serves(name: str, entry: str) -> bool:
    """Return whether the source is compiled and takes this processor."""
    library = compiler.library(name)
    return library is not None and bool(getattr(library, entry)())


BF16 = pytest.mark.skipif(
    not serves("bf16_linear", "bf16_serves") or torch.cpu._is_amx_tile_supported(),
    reason="bfloat16 products are not ours on this processor",
)


def write(name: str, folder: Path) -> Path:
    """Write the family's model, with heads that the kernels take."""
    sample: Sample = SAMPLES[name]
    if sample.changes.get("head_dim") == 24:
        sample = dataclasses.replace(sample, changes={**sample.changes, "head_dim": 32})
    save(sample.build(), folder)
    return folder


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        pytest.param("bfloat16", None, marks=BF16),
        pytest.param("bfloat16", "int8", marks=needs("grouped_linear")),
        pytest.param("float32", "int8", marks=needs("grouped_linear")),
        pytest.param("float32", "int4", marks=needs("grouped_linear")),
        pytest.param("float32", None, marks=needs("float_linear")),
    ],
)
def test_a_program_gives_the_bits_of_its_kernels(
    name: str, dtype: str, quantization: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts in pieces and decodes between them, in each family that is all kernels."""
    folder = write(name, tmp_path)
    token_ids = make_prompts(89, (200,))[0]
    compiled = load_model(folder, dtype, quantization=quantization)
    assert isinstance(compiled._layers, CompiledLayers)
    monkeypatch.setattr(CompiledLayers, "of", lambda layers: None)
    eager = load_model(folder, dtype, quantization=quantization)
    assert isinstance(eager._layers, LayerByLayer)
    for cuts in CUTS:
        assert torch.equal(*(last_logits(model, token_ids, cuts) for model in (compiled, eager)))


@needs("grouped_linear")
@pytest.mark.parametrize("name", LAYER_BY_LAYER)
def test_layers_that_are_not_all_kernels_run_one_by_one(name: str, tmp_path: Path) -> None:
    """Nothing is recorded in part."""
    model = load_model(write(name, tmp_path), "bfloat16", quantization="int8")
    assert isinstance(model._layers, LayerByLayer)


@needs("grouped_linear")
def test_a_program_follows_its_cache(tmp_path: Path) -> None:
    """Another cache is another memory: what was recorded for the first one does not touch it."""
    model = load_model(write("llama", tmp_path), "float32", quantization="int8")
    token_ids = make_prompts(89, (40,))[0]
    first = last_logits(model, token_ids, (30, 10))  # each call makes a cache of its own
    assert torch.equal(last_logits(model, token_ids, (30, 10)), first)


@needs("program")
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_every_call_sees_what_those_before_it_wrote(num_threads: int) -> None:
    """A chain of many small calls, on more threads than processors too, again and again."""
    torch.manual_seed(0)
    norms = [RMSNorm(torch.randn(64), 1e-5) for _ in range(40)]
    x = torch.randn(37, 64)
    expected = x
    for norm in norms:
        expected = norm(expected)
    buffers = [x, *(torch.full_like(x, torch.nan) for _ in norms)]
    rows = ctypes.c_int64(len(x))
    calls = []
    for norm, source, target in zip(norms, buffers, buffers[1:], strict=False):
        calls += norm.calls(source, target, rows)
    program = Program(calls)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for _ in range(50):
            for buffer in buffers[1:]:
                buffer.fill_(torch.nan)
            program.run()
            assert torch.equal(buffers[-1], expected)
    finally:
        torch.set_num_threads(before)


@needs("program")
def test_the_overlap_is_called_once_and_its_fault_is_raised() -> None:
    """The calls are all done even so."""
    norm = RMSNorm(torch.ones(64), 1e-5)
    x = torch.randn(3, 64)
    out = torch.full_like(x, torch.nan)
    rows = ctypes.c_int64(len(x))
    program = Program(norm.calls(x, out, rows))
    calls: list[str] = []
    program.run(lambda: calls.append("done"))
    assert calls == ["done"]
    out.fill_(torch.nan)
    with pytest.raises(ZeroDivisionError):
        program.run(lambda: calls.append(str(1 / 0)))
    assert torch.equal(out, norm(x))
