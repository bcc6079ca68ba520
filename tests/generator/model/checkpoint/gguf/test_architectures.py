"""Each architecture as a GGUF file gives the logits that transformers gives for its folder."""

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from mesh.gguf import GGUFFile
from services.generator.backend.cpu import loading
from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine
from services.generator.model.checkpoint.gguf.gguf_config import model_config
from services.generator.model.checkpoint.gguf.weights import GGUFWeights
from services.generator.model.checkpoint.model_files import open_weights, read_config
from services.generator.model.decoder import Decoder
from services.generator.model.errors import ModelConfigError, WeightError
from tests.generator.model.checkpoint.gguf.converted import Quantization, convert
from tests.generator.model.conftest import save
from tests.generator.model.family_models import GEMMA3, LONGROPE, SAMPLES, YARN, Sample
from tests.generator.model.test_families import last_logits
from tests.generator.model.test_parity import make_prompts
from tests.tokenizer.gguf.vocabularies import chat_model

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16}


def changed(name: str, **changes: Any) -> Sample:
    """Return a family's sample without what a GGUF file cannot say of it."""
    sample = SAMPLES[name]
    kept = {key: value for key, value in sample.changes.items() if key not in changes}
    kept |= {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(sample, changes=kept)


CASES = {
    "llama": SAMPLES["llama"],
    "llama_tied": changed("llama", tie_word_embeddings=True),
    "llama_biased": changed("llama", attention_bias=True, mlp_bias=True),
    "llama_yarn": changed("llama", rope_parameters=YARN),
    "llama3": changed("llama", rope_parameters=LLAMA3),
    "llama_linear": changed(
        "llama", rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    ),
    "mistral": changed("mistral", sliding_window=None),
    "mistral_windowed": SAMPLES["mistral"],
    "mixtral": changed("mixtral", sliding_window=None),
    "mixtral_windowed": SAMPLES["mixtral"],
    "qwen2": changed("qwen2", use_sliding_window=False, sliding_window=None, rope_parameters=None),
    "qwen2_yarn": changed(
        "qwen2", use_sliding_window=False, sliding_window=None, rope_parameters=YARN
    ),
    "qwen3": SAMPLES["qwen3"],
    "qwen3_moe": Sample("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**MOE, "norm_topk_prob": True}),
    "gemma2": changed("gemma2", query_pre_attn_scalar=24),
    "gemma3": Sample(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **GEMMA3,
            "sliding_window_pattern": 6,
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": 24,
        },
    ),
    "phi3": SAMPLES["phi3"],
    "phi3_long": changed(
        "phi3_long", rope_parameters={**LONGROPE, "original_max_position_embeddings": 16}
    ),
    "gpt2": SAMPLES["gpt2"],
}


def load(path: Path, **options: Any) -> Decoder:
    config = EngineConfig(path, **options)
    return loading.load_model(config, read_config(path), open_weights(path))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """In float32, in one piece and in chunks."""
    model = CASES[name].build()
    save(model, tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf")
    token_ids = make_prompts(89, (120,))[0]
    with torch.inference_mode():
        expected = model(torch.tensor([token_ids])).logits[0, -1]
    decoder = load(path)
    for cuts in ((120,), (30, 89, 1)):
        assert (last_logits(decoder, token_ids, cuts) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16"])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "phi3"])
def test_quantised_files_mean_their_floats(name: str, kind: str, tmp_path: Path) -> None:
    """Logits of a file in blocks are those of a file with the floats that its blocks stand for."""
    model = CASES[name].build()
    save(model, tmp_path / "folder")
    number = Quantization[kind]
    quantised = convert(tmp_path / "folder", tmp_path / "quantised.gguf", number)
    token_ids = make_prompts(89, (50,))[0]
    actual = last_logits(load(quantised, exact=True, dtype="float32"), token_ids, (50,))
    state = {
        key: dequantised(value, number) if value.ndim > 1 else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    with torch.inference_mode():
        expected = model(torch.tensor([token_ids])).logits[0, -1]
    assert (actual - expected).abs().max() < 2e-3 * expected.abs().max()


def dequantised(weight: torch.Tensor, kind: Quantization) -> torch.Tensor:
    if weight.shape[-1] % 32:
        return weight
    return torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind))


def test_an_engine_serves_a_file(tmp_path: Path) -> None:
    """Ends, name and context come out of it."""
    save(CASES["llama"].build(), tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf", Quantization.Q8_0)
    engine = load_engine(EngineConfig(tmp_path / "model.gguf", kv_cache_bytes=2**20))
    assert path == tmp_path / "model.gguf"
    assert engine.model_config.eos_token_ids == (2,)
    engine.add("a", [5, 6, 7], SamplingParams(max_tokens=4, temperature=0.0))
    outputs = [output for _ in range(20) if engine.has_work for output in engine.step()]
    assert outputs[-1].finish_reason is not None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"general.architecture": "mamba"}, "mamba is not one of"),
        ({"llama.rope.scaling.type": "new"}, "new is not one of"),
        ({"llama.attention.head_count": [4, 2]}, "differs between layers"),
        ({"llama.attention.value_length": 8}, "differs from the keys'"),
        ({"llama.context_length": None}, "is missing"),
    ],
)
def test_what_is_not_served_is_named(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The entry at fault, before any tensor is read."""
    save(CASES["llama"].build(), tmp_path / "folder")
    file = GGUFFile.read(convert(tmp_path / "folder", tmp_path / "model.gguf"))
    metadata = {
        name: value for name, value in {**file.metadata, **entries}.items() if value is not None
    }
    with pytest.raises(ModelConfigError, match=message):
        model_config(GGUFFile(metadata, file.tensors))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """As the file would call it."""
    save(CASES["llama"].build(), tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf")
    file = GGUFFile.read(path)
    tensors = {name: value for name, value in file.tensors.items() if "blk.1.ffn_down" not in name}
    cut = GGUFFile(file.metadata, tensors)
    with pytest.raises(WeightError, match=r"blk\.1\.ffn_down\.weight"):
        loading.load_model(EngineConfig(path), model_config(cut), GGUFWeights(cut))


@pytest.mark.skipif(
    chat_model() is None,
    reason="the chat model is not here: infermesh pull smollm2-135m-instruct",
)
def test_the_chat_model_decodes_as_transformers_does() -> None:
    """Greedy tokens of float32 on the weights that the file stands for, in exact arithmetic."""
    path = chat_model()
    assert path is not None
    config, weights = read_config(path), open_weights(path)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=576, intermediate_size=1536,
            num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            max_position_embeddings=8192, rms_norm_eps=config.norm_eps, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        )
    ).eval()  # fmt: skip
    names = {
        "embed_tokens": "token_embd", "layers": "blk", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "model.norm": "output_norm",
    }  # fmt: skip
    state = {}
    for key, value in model.state_dict().items():
        name = key
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        name = name.removeprefix("model.").replace("lm_head", "token_embd")
        state[key] = weights.tensor(name, *value.shape)
    model.load_state_dict(state)
    engine = load_engine(EngineConfig(path, exact=True, kv_cache_bytes=2**27))
    # of the chat template's beginning, of prose, of code
    prompts = [
        [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411],
        [504, 3575, 282, 4649, 314, 19556, 28, 392, 416, 722, 216, 2701, 256, 5600, 17, 216, 33],
        [1939, 2756, 32564, 90, 16739, 386, 101, 30, 198, 198, 19556, 905, 17, 216, 33, 34, 35],
    ]
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, params)
    tokens: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
    for number, prompt in enumerate(prompts):
        with torch.inference_mode():
            ids = model.generate(
                torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None
            )
        assert tokens[str(number)] == ids[0, len(prompt) :].tolist()
