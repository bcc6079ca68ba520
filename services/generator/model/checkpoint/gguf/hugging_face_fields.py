"""A GGUF file's metadata as the fields of Hugging Face's `config.json`.

What the file leaves to its reader is in the table here: windows, scales and biases of a family as
llama.cpp takes them. Knows no torch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mesh.gguf import GGUFFile
from services.generator.model.checkpoint.families import FAMILIES
from services.generator.model.checkpoint.gguf.metadata import Metadata
from services.generator.model.checkpoint.gguf.rope_fields import rope_fields
from services.generator.model.checkpoint.layer_config import MAX_LAYERS
from services.generator.model.errors import ModelConfigError

# Options of llama.cpp that change the arithmetic, and their values that do not.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,), "attention.scale": (0.0,), "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,), "attention.temperature_length": (0,),
    "attention.shared_kv_layers": (0,), "pooling_type": (0,), "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0), "embedding_scale": (0.0, 1.0),
    "use_parallel_residual": (False,), "swin_norm": (False,), "expert_shared_count": (0,),
    "expert_weights_scale": (0.0, 1.0), "expert_gating_func": (0, 1), "expert_group_count": (0, 1),
    "leading_dense_block_count": (0,), "nextn_predict_layers": (0,),
    "router_logit_softcapping": (0.0,),
}  # fmt: skip
# of types whose rows have a dtype to be computed in; quantised rows are float32
_DTYPES = {"BF16": "bfloat16", "F16": "float16"}


class _Architecture(NamedTuple):
    """How one architecture of llama.cpp is read: its family, and fields beside the common ones."""

    family: Callable[[Metadata], str]
    extra: Callable[[Metadata], Mapping[str, Any]]
    norm_eps: str = "attention.layer_norm_rms_epsilon"
    has_windows: bool = True  # where not, a window would be for layers that nothing names


def hugging_face_fields(file: GGUFFile) -> dict[str, Any]:
    """Return what `ModelConfig.parse` takes; raises ModelConfigError naming the first bad entry."""
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelConfigError("general.type", f"{kind!r} is not a model")
    metadata = Metadata(file.metadata)
    architecture = _ARCHITECTURES.get(metadata.architecture)
    if architecture is None:
        known = ", ".join(sorted(_ARCHITECTURES))
        problem = f"{metadata.architecture} is not one of: {known}"
        raise ModelConfigError("general.architecture", problem)
    metadata.refuse(_NEUTRAL)
    if not architecture.has_windows:
        _refuse_window(metadata)
    family = architecture.family(metadata)
    words = FAMILIES[family].names
    fields = _common(metadata, architecture.norm_eps, file)
    fields |= rope_fields(metadata, file.tensors, fields["head_dim"])
    fields |= architecture.extra(metadata)
    # in the family's own words
    return {words.get(name, (name,))[0]: value for name, value in fields.items()} | {
        "architectures": [family]
    }


def _refuse_window(metadata: Metadata) -> None:
    """Raise ModelConfigError for a window that matters; files repeat one that is turned off."""
    window = metadata.optional_size("attention.sliding_window")
    if window is not None and window < metadata.size("context_length"):
        problem = f"{window} is not supported: the file does not say of which layers"
        raise ModelConfigError(metadata.key("attention.sliding_window"), problem)


def _common(metadata: Metadata, norm_eps: str, file: GGUFFile) -> dict[str, Any]:
    hidden_size, num_heads = metadata.size("embedding_length"), _num_heads(metadata)
    head_dim = metadata.size("attention.key_length", hidden_size // num_heads)
    if metadata.size("attention.value_length", head_dim) != head_dim:
        problem = "differs from the keys', and is not served"
        raise ModelConfigError(metadata.key("attention.value_length"), problem)
    return {
        "vocab_size": _vocab_size(file),
        "hidden_size": hidden_size,
        "intermediate_size": _intermediate_size(metadata),
        "num_hidden_layers": metadata.size("block_count", limit=MAX_LAYERS),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.size("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.size("context_length"),
        "rms_norm_eps": metadata.number(norm_eps, 1e-5),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "dtype": _dtype(file),
    }


def _num_heads(metadata: Metadata) -> int:
    return metadata.size("attention.head_count")


def _vocab_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelConfigError("token_embd.weight", "is missing")
    if len(embedding.shape) != 2:
        raise ModelConfigError("token_embd.weight", f"has shape {embedding.shape}, no matrix's")
    return embedding.shape[0]


def _intermediate_size(metadata: Metadata) -> int:
    """Return it; where every layer has experts of their own size it is unused, and 0 in files."""
    own = metadata.optional_size("expert_feed_forward_length")
    return own or metadata.size("feed_forward_length")


def _dtype(file: GGUFFile) -> str:
    return _DTYPES.get(_matrix_type(file), "float32")


def is_quantized(file: GGUFFile) -> bool:
    """Return whether the layers' matrices are of 8 bits or less."""
    return _matrix_type(file) not in (*_DTYPES, "F32", "F64")


def _matrix_type(file: GGUFFile) -> str:
    names = ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight")
    types = [file.tensors[name].type.name for name in names if name in file.tensors]
    return types[0] if types else "F32"


def _llama_family(metadata: Metadata) -> str:
    """Return which of the families it is that llama.cpp calls by the name of the first."""
    if metadata.optional_size("expert_count") is not None:
        return "MixtralForCausalLM"
    is_windowed = metadata.optional_size("attention.sliding_window") is not None
    return "MistralForCausalLM" if is_windowed else "LlamaForCausalLM"


def _window(metadata: Metadata) -> dict[str, Any]:
    return {"sliding_window": metadata.optional_size("attention.sliding_window")}


def _experts(metadata: Metadata) -> dict[str, Any]:
    return {
        "num_experts": metadata.size("expert_count"),
        "num_experts_per_tok": metadata.size("expert_used_count"),
    }


def _llama(metadata: Metadata) -> dict[str, Any]:
    if metadata.optional_size("expert_count") is None:
        return _window(metadata)
    return _window(metadata) | _experts(metadata)


def _qwen3_moe(metadata: Metadata) -> dict[str, Any]:
    normalizes = metadata.get("expert_weights_norm")
    return _experts(metadata) | {
        "moe_intermediate_size": metadata.size("expert_feed_forward_length"),
        "norm_topk_prob": True if normalizes is None else bool(normalizes),
    }


def _gemma_windows(metadata: Metadata, default: int | None) -> dict[str, Any]:
    """Return which layers see a window: a period, or a list of the windowed ones."""
    window = metadata.optional_size("attention.sliding_window") or default
    pattern = metadata.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        kinds = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
        return {"sliding_window": window, "layer_types": kinds}
    period = metadata.optional_size("attention.sliding_window_pattern")
    return {"sliding_window": window} | ({"sliding_window_pattern": period} if period else {})


def _query_scale(metadata: Metadata, largest: int) -> dict[str, Any]:
    """Return what scores are scaled by: a head's size, in the largest model the width by heads."""
    hidden_size, num_heads = metadata.size("embedding_length"), _num_heads(metadata)
    if metadata.size("block_count") == largest:
        return {"query_pre_attn_scalar": hidden_size // num_heads}
    head_dim = metadata.size("attention.key_length", hidden_size // num_heads)
    return {"query_pre_attn_scalar": head_dim}


def _gemma2(metadata: Metadata) -> dict[str, Any]:
    return {
        **_gemma_windows(metadata, 4096),
        **_query_scale(metadata, 46),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 30.0),
    }


def _gemma3(metadata: Metadata) -> dict[str, Any]:
    return {
        **_gemma_windows(metadata, None),
        **_query_scale(metadata, 62),
        "attn_logit_softcapping": metadata.optional_number("attn_logit_softcapping"),
        "final_logit_softcapping": metadata.optional_number("final_logit_softcapping"),
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 1e4),
    }


def _nothing(metadata: Metadata) -> dict[str, Any]:
    return {}


def _is(family: str) -> Callable[[Metadata], str]:
    return lambda metadata: family


_ARCHITECTURES = {
    "llama": _Architecture(_llama_family, _llama),
    "qwen2": _Architecture(_is("Qwen2ForCausalLM"), _nothing, has_windows=False),
    "qwen3": _Architecture(_is("Qwen3ForCausalLM"), _nothing, has_windows=False),
    "qwen3moe": _Architecture(_is("Qwen3MoeForCausalLM"), _qwen3_moe, has_windows=False),
    "gemma2": _Architecture(_is("Gemma2ForCausalLM"), _gemma2),
    "gemma3": _Architecture(_is("Gemma3ForCausalLM"), _gemma3),
    "phi3": _Architecture(_is("Phi3ForCausalLM"), _window),
    "gpt2": _Architecture(
        _is("GPT2LMHeadModel"), _nothing, "attention.layer_norm_epsilon", has_windows=False
    ),
}
