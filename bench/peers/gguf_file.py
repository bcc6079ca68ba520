"""A random checkpoint of Llama or Qwen 3 as a GGUF file without a vocabulary."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}
LAYERS_OF_HUGGING_FACE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_OF_HUGGING_FACE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(checkpoint: Path, target: Path, weights: str, has_vocabulary: bool = False) -> None:
    """Write matrices as `weights`, a name of GGMLQuantizationType, and norms as F32.

    `has_vocabulary` adds tokens without a meaning, for engines that load no file without any.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    _add_fields(writer, config, gguf.LlamaFileType[f"MOSTLY_{weights}"])
    if has_vocabulary:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([f"<{index}>" for index in range(config["vocab_size"])])
        writer.add_token_types([1] * config["vocab_size"])
        writer.add_token_merges(["< 0"])
        writer.add_eos_token_id(0)
    else:
        writer.add_tokenizer_model("none")
    kind = gguf.GGMLQuantizationType[weights]
    for name, values in _tensors(checkpoint / "model.safetensors"):
        if architecture is gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj", "k_proj")):
            heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            values = _interleaved(values, config[heads])
        target_name = f"{renamed(name)}.weight"
        if values.ndim == 1:
            writer.add_tensor(target_name, values)
        else:
            writer.add_tensor(target_name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_fields(
    writer: gguf.GGUFWriter, config: Mapping[str, Any], file_type: gguf.LlamaFileType
) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_file_type(file_type)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def renamed(name: str) -> str:
    """Return the name in a GGUF file of a tensor of Hugging Face's, both without `.weight`."""
    if name in OUTER_OF_HUGGING_FACE:
        return OUTER_OF_HUGGING_FACE[name]
    _, _, index, part = name.split(".", 3)
    return f"blk.{index}.{LAYERS_OF_HUGGING_FACE[part]}"


def _interleaved(values: Floats, num_heads: int) -> Floats:
    """Order each head's rows as llama.cpp rotates them for Llama: by pairs, not by halves."""
    rows, columns = values.shape
    halves = values.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _tensors(path: Path) -> Iterator[tuple[str, Floats]]:
    """Yield each bfloat16 tensor as float32, its name without `.weight`."""
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    header_end = 8 + int(raw[:8].view(np.uint64)[0])
    header = json.loads(raw[8:header_end].tobytes())
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (header_end + offset for offset in entry["data_offsets"])
        # bfloat16 is the upper half of float32
        upper = np.frombuffer(raw[start:end].tobytes(), dtype=np.uint16).astype(np.uint32)
        yield name.removesuffix(".weight"), (upper << 16).view(np.float32).reshape(entry["shape"])
