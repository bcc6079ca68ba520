"""A file's metadata as a model's configuration: what it says, what it leaves out, refusals."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.generator.model.checkpoint.generation_config import GenerationConfig
from services.generator.model.checkpoint.model_files import read_config
from services.generator.model.errors import ModelConfigError
from tests.generator.model.checkpoint.gguf.files import EXPERTS, read


def test_a_window_of_the_whole_context_is_none(tmp_path: Path) -> None:
    """Qwen's files repeat a window that its configuration turns off."""
    config = read(tmp_path, "qwen2", attention__sliding_window=512)
    assert set(config.windows) == {None}


def test_sizes(tmp_path: Path) -> None:
    """All sizes come from the file, those that it leaves out from the others."""
    config = read(tmp_path)
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (89, 64, 96)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert (config.context_length, config.num_layers) == (512, 4)
    assert config.norm_eps == pytest.approx(1e-5, rel=1e-7)
    assert [rope.theta for rope in config.ropes] == [5e5]
    assert config.tie_word_embeddings
    assert read(tmp_path, attention__head_count_kv=None).num_kv_heads == 4
    assert read(tmp_path, attention__head_count=[4, 4, 4, 4]).num_heads == 4


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({}, "LlamaForCausalLM"),
        ({"attention.sliding_window": 128}, "MistralForCausalLM"),
        ({"expert_count": 8, "expert_used_count": 2}, "MixtralForCausalLM"),
        ({"expert_count": 0}, "LlamaForCausalLM"),
    ],
)
def test_llama_stands_for_three_families(
    tmp_path: Path, changes: dict[str, int], architecture: str
) -> None:
    """Experts make it a Mixtral, a window a Mistral."""
    config = read(tmp_path, **changes)
    assert config.family.architectures == (architecture,)
    assert set(config.windows) == {changes.get("attention.sliding_window")}


@pytest.mark.parametrize(
    ("architecture", "layers", "scale"),
    [("gemma2", 46, 16), ("gemma2", 4, 24), ("gemma3", 62, 16), ("gemma3", 7, 24)],
)
def test_gemmas_scores(tmp_path: Path, architecture: str, layers: int, scale: int) -> None:
    """The largest sizes scale by the width per head, the others by a head's size."""
    config = read(
        tmp_path, architecture, block_count=layers, attention__key_length=24,
        attention__value_length=24,
    )  # fmt: skip
    assert config.attention_scale == scale**-0.5


def test_gemma2_without_its_options(tmp_path: Path) -> None:
    """Every second layer sees 4096 tokens, and both caps are the family's."""
    config = read(tmp_path, "gemma2")
    assert [layer.window for layer in config.layers] == [4096, None, 4096, None]
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    assert config.family.scales_embedding


def test_gemma3s_windows(tmp_path: Path) -> None:
    """Five of six layers have a window and the local base, or those that the file lists."""
    config = read(tmp_path, "gemma3", block_count=7, attention__sliding_window=32)
    assert [layer.window for layer in config.layers] == [32, 32, 32, 32, 32, None, 32]
    assert [layer.rope.theta for layer in config.layers[4:] if layer.rope] == [1e4, 5e5, 1e4]
    listed = read(
        tmp_path, "gemma3", attention__sliding_window=32, rope__freq_base_swa=2e4,
        attention__sliding_window_pattern=[True, False, False, True],
    )  # fmt: skip
    assert [layer.window for layer in listed.layers] == [32, None, None, 32]
    assert listed.layers[0].rope is not None
    assert listed.layers[0].rope.theta == 2e4
    assert set(read(tmp_path, "gemma3").windows) == {None}


@pytest.mark.parametrize(("said", "normalizes"), [(None, True), (True, True), (False, False)])
def test_qwen3_experts_shares(tmp_path: Path, said: bool | None, normalizes: bool) -> None:
    """The chosen experts' shares sum to 1 unless the file says otherwise."""
    config = read(tmp_path, "qwen3moe", **EXPERTS, expert_weights_norm=said)
    experts = config.layers[0].experts
    assert experts is not None
    assert (experts.num_experts, experts.num_chosen, experts.intermediate_size) == (8, 2, 24)
    assert experts.normalizes is normalizes


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.zeros((64, 64), np.float32), "float32"),
        (np.zeros((64, 64), np.float16), "float16"),
        (np.zeros((64, 2 * 18), np.uint8), "float32"),
    ],
)
def test_the_dtype_is_that_of_the_matrices(tmp_path: Path, array: np.ndarray, dtype: str) -> None:
    """Norms and embeddings do not count; rows beside blocks are float32."""
    assert read(tmp_path, tensors={"blk.0.attn_q.weight": array}).dtype == dtype


def test_heads_that_are_not_tied(tmp_path: Path) -> None:
    """A file with an output matrix has a head of its own."""
    assert not read(
        tmp_path, tensors={"output.weight": np.zeros((89, 64), np.float32)}
    ).tie_word_embeddings


@pytest.mark.parametrize(
    ("architecture", "entries", "field"),
    [
        ("mamba", {}, "general.architecture"),
        ("llama", {"embedding_length": None}, "llama.embedding_length"),
        ("llama", {"context_length": 0}, "llama.context_length"),
        ("llama", {"context_length": 2**31}, "llama.context_length"),
        ("llama", {"block_count": 10_001}, "llama.block_count"),
        ("llama", {"attention.head_count": [4, 4, 4, 2]}, "llama.attention.head_count"),
        ("llama", {"attention.head_count_kv": 3}, "num_key_value_heads"),
        ("llama", {"attention.value_length": 32}, "llama.attention.value_length"),
        ("llama", {"rope.dimension_count": 8}, "llama.rope.dimension_count"),
        ("phi3", {"rope.dimension_count": 32}, "phi3.rope.dimension_count"),
        ("llama", {"rope.freq_base": -1.0}, "llama.rope.freq_base"),
        ("llama", {"rope.scaling.type": "ntk", "rope.scaling.factor": 2.0},
         "llama.rope.scaling.type"),
        ("phi3", {"rope.scaling.type": "longrope"}, "rope_factors_long.weight"),
        ("llama", {"attention.causal": False}, "llama.attention.causal"),
        ("llama", {"logit_scale": 0.5}, "llama.logit_scale"),
        ("qwen2", {"attention.sliding_window": 64}, "qwen2.attention.sliding_window"),
        ("qwen3moe", EXPERTS | {"expert_gating_func": 2}, "qwen3moe.expert_gating_func"),
        ("qwen3moe", EXPERTS | {"expert_used_count": 9}, "num_experts_per_tok"),
        ("gemma3", {"attention.sliding_window": 8, "attention.sliding_window_pattern": [True]},
         "layer_types"),
    ],
)  # fmt: skip
def test_refusals_name_the_entry(
    tmp_path: Path, architecture: str, entries: dict[str, Any], field: str
) -> None:
    """What cannot be served is refused by the name that stands in the file."""
    with pytest.raises(ModelConfigError) as refused:
        read(tmp_path, architecture, **entries)
    assert refused.value.field == field


def test_files_that_are_no_models(tmp_path: Path) -> None:
    """An adapter, a damaged file and a folder of two are refused in words."""
    with pytest.raises(ModelConfigError, match=r"general\.type: 'adapter' is not a model"):
        read(tmp_path, general={"general.type": "adapter"})
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelConfigError, match="holds several models"):
        read_config(tmp_path)
    with pytest.raises(ModelConfigError, match=r"other\.gguf: is damaged or cut short"):
        read_config(tmp_path / "other.gguf")


def test_a_folder_of_safetensors_stays_one(tmp_path: Path) -> None:
    """A GGUF file that was written into a checkpoint's folder does not take its place."""
    read(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelConfigError, match=r"config\.json: not found"):
        read_config(tmp_path)


def test_sampling_is_by_default(tmp_path: Path) -> None:
    """A GGUF file says nothing of sampling, by its own path or its folder's."""
    read(tmp_path)
    for path in (tmp_path, tmp_path / "model.gguf"):
        assert GenerationConfig.read(path) == GenerationConfig()


def test_the_configuration_needs_no_arrays(tmp_path: Path) -> None:
    """A mock engine serves a GGUF file where neither torch nor numpy is."""
    read(tmp_path, tensors={"rope_freqs.weight": np.ones(8, np.float32)})
    program = (
        "import sys; from pathlib import Path\n"
        "from services.generator.backend.mock.config import MockConfig\n"
        "from services.generator.engine import EngineConfig\n"
        "from services.generator.loading import load_engine\n"
        "load_engine(EngineConfig(Path(sys.argv[1])), mock=MockConfig())\n"
        "print(*{'torch', 'numpy', 'gguf'} & sys.modules.keys())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.gguf")],
        cwd=Path(__file__).parents[5], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr
