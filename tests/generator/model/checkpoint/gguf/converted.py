"""A small Hugging Face checkpoint written as llama.cpp's converter writes it into a GGUF file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from tests.generator.model.checkpoint.gguf.q4_k import q4_k_blocks

Quantization = gguf.GGMLQuantizationType
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_INTERLEAVED = ("llama", "mistral", "mixtral")
Tensors = dict[str, torch.Tensor]


def convert(
    folder: Path,
    path: Path,
    kind: Quantization = Quantization.F32,
    others: Mapping[str, Quantization] | None = None,
) -> Path:
    """Write the folder's model into a file, its matrices as `kind` where rows are whole blocks.

    `others` are the kinds of matrices with these words in their names.
    """
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    for name, value in _entries(config):
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{index}" for index in range(config["vocab_size"])])
    writer.add_eos_token_id(2)
    num_layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(architecture, num_layers)
    for name, tensor in _stacked(_renamed(tensors, names), config).items():
        values = tensor.contiguous().numpy()
        words = [word for word in others or {} if word in name]
        data, number = quantised(values, (others or {})[words[0]] if words else kind)
        writer.add_tensor(name, data, raw_dtype=number)
    for name, numbers in _rope_tensors(config).items():
        writer.add_tensor(name, np.array(numbers, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantised(values: np.ndarray, kind: Quantization) -> tuple[np.ndarray, Quantization | None]:
    """Return blocks and their kind, or the floats and None where rows are no whole blocks."""
    block_size = max(32, gguf.GGML_QUANT_SIZES[kind][0])
    if values.ndim < 2 or values.shape[-1] % block_size or kind == Quantization.F32:
        return values, None
    if kind == Quantization.Q4_K:
        return q4_k_blocks(values), kind
    return gguf.quantize(values, kind), kind


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    heads = config.get("num_attention_heads") or config["n_head"]
    hidden = config.get("hidden_size") or config["n_embd"]
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
    yield "context_length", config.get("max_position_embeddings") or config["n_positions"]
    yield "embedding_length", hidden
    yield "block_count", config.get("num_hidden_layers") or config["n_layer"]
    yield "feed_forward_length", inner
    yield "head_count", heads
    if config["model_type"] == "gpt2":
        yield "layer_norm_eps", config["layer_norm_epsilon"]
        return
    head_dim = config.get("head_dim") or hidden // heads
    yield "head_count_kv", config["num_key_value_heads"]
    yield "layer_norm_rms_eps", config["rms_norm_eps"]
    if config.get("head_dim"):
        yield "key_length", head_dim
        yield "value_length", head_dim
    rope = config.get("rope_parameters") or {}
    whole = rope.get("full_attention") or rope
    yield "rope_freq_base", whole.get("rope_theta", 10000.0)
    yield "rope_dimension_count", int(head_dim * whole.get("partial_rotary_factor", 1.0))
    kind = whole.get("rope_type")
    if kind in ("linear", "yarn"):
        scaling = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}
        yield "rope_scaling_type", scaling[kind]
        yield "rope_scaling_factor", whole["factor"]
    original = whole.get("original_max_position_embeddings")
    if kind in ("yarn", "longrope"):
        yield "rope_scaling_orig_ctx_len", original
    if config["model_type"] in ("mistral", "mixtral", "gemma2", "gemma3_text", "phi3"):
        yield "sliding_window", config.get("sliding_window")
    yield "attn_logit_softcapping", config.get("attn_logit_softcapping")
    yield "final_logit_softcapping", config.get("final_logit_softcapping")
    if config["model_type"] in ("mixtral", "qwen3_moe"):
        yield "expert_count", config.get("num_experts") or config["num_local_experts"]
        yield "expert_used_count", config["num_experts_per_tok"]
        yield "expert_feed_forward_length", config.get("moe_intermediate_size") or inner


def _renamed(tensors: Tensors, names: Any) -> Tensors:
    """Name the tensors as the package does, experts apart."""
    renamed = {}
    for name, tensor in tensors.items():
        if ".experts." in name:
            renamed[name] = tensor.float()
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        is_transposed = name.endswith(_TRANSPOSED) and tensor.ndim == 2
        renamed[new] = (tensor.t() if is_transposed else tensor).float()
    return renamed


def _stacked(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """Stack experts, order rows for a rotation of neighbours, add one to Gemma's norms."""
    kind, heads = config["model_type"], config.get("num_attention_heads")
    out: Tensors = {}
    parts = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up"}
    parts |= {"down_proj": "down", "w2": "down"}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if ".experts." in name:
            before, _, after = name.partition(".experts.")
            number, part, _ = after.split(".")
            layer = before.split(".")[2]
            stacks.setdefault(f"blk.{layer}.ffn_{parts[part]}_exps.weight", {})[int(number)] = (
                tensor
            )
        elif kind in ("llama", "mistral", "mixtral") and (".attn_q." in name or ".attn_k." in name):
            count = heads if ".attn_q." in name else config["num_key_value_heads"]
            halves = tensor.view(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
            out[name] = halves.swapaxes(1, 2).reshape(tensor.shape)
        elif kind.startswith("gemma") and name.endswith("norm.weight"):
            out[name] = tensor + 1
        else:
            out[name] = tensor
    for name, experts in stacks.items():
        out[name] = torch.stack([experts[number] for number in sorted(experts)])
    return out


def _rope_tensors(config: dict[str, Any]) -> dict[str, list[float]]:
    """Return what some models keep of their rotary frequencies."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{length}.weight": rope[f"{length}_factor"]
            for length in ("long", "short")
        }
    if rope.get("rope_type") != "llama3":
        return {}
    dim = config["hidden_size"] // config["num_attention_heads"]
    original, low = rope["original_max_position_embeddings"], rope["low_freq_factor"]
    factors = []
    for index in range(dim // 2):
        length = 2 * torch.pi * rope["rope_theta"] ** (2 * index / dim)
        if length < original / rope["high_freq_factor"]:
            factors.append(1.0)
        elif length > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / length - low) / (rope["high_freq_factor"] - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {"rope_freqs.weight": factors}
