"""Metadata of GGUF files as the fields of a Hugging Face `config.json`.

What a file does not say is llama.cpp's to know; it stands in the tables here. Knows no torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mesh.gguf import GGUFFile
from services.generator.model.errors import ModelConfigError

Fields = dict[str, Any]

_DEFAULT_ROPE_BASE = 10000.0
# layers of the two sizes whose scores are scaled by the hidden size of a head
_GEMMA_27B_LAYERS = (46, 62)
# of types whose rows have a dtype to be computed in; quantised rows are float32
_DTYPES = {"BF16": "bfloat16", "F16": "float16"}


def hugging_face_fields(file: GGUFFile) -> Fields:
    """Return what `config.json` would say; raises ModelConfigError naming the field at fault."""
    name = str(file.metadata.get("general.architecture"))
    if name not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise ModelConfigError("general.architecture", f"{name} is not one of: {known}")
    return _ARCHITECTURES[name](_Metadata(file, name))


class _Metadata:
    """The entries of one architecture."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.tensors = file.tensors
        self._entries = file.metadata
        self._prefix = f"{architecture}."

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry; of a list with one value for each layer that value."""
        value = self._entries.get(self._prefix + name, default)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            raise ModelConfigError(self._prefix + name, "differs between layers")
        return value[0]

    def required(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ModelConfigError(self._prefix + name, "is missing")
        return value

    def factors(self, name: str) -> list[float] | None:
        """Return the numbers of a tensor, None where the file lacks it."""
        tensor = self.tensors.get(f"{name}.weight")
        if tensor is None:
            return None
        if tensor.type.name != "F32":
            problem = f"is of type {tensor.type.name}, and only F32 is read there"
            raise ModelConfigError(f"{name}.weight", problem)
        return [float(number) for number in tensor.data.cast("f")]

    @property
    def prefix(self) -> str:
        return self._prefix


def _common(metadata: _Metadata, architecture: str) -> Fields:
    hidden, heads = metadata.required("embedding_length"), metadata.required("attention.head_count")
    if not isinstance(heads, int) or heads < 1:
        raise ModelConfigError(f"{metadata.prefix}attention.head_count", f"must not be {heads!r}")
    embedding = metadata.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelConfigError("token_embd.weight", "is missing")
    head_dim = metadata.get("attention.key_length", hidden // heads)
    if metadata.get("attention.value_length", head_dim) != head_dim:
        raise ModelConfigError(
            f"{metadata.prefix}attention.value_length", "differs from the keys', and is not served"
        )
    rotated = metadata.get("rope.dimension_count", head_dim)
    fields: Fields = {
        "architectures": [architecture],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": metadata.get("feed_forward_length"),
        "num_hidden_layers": metadata.required("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.required("context_length"),
        "rms_norm_eps": metadata.get("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": metadata.get("rope.freq_base", _DEFAULT_ROPE_BASE),
        "partial_rotary_factor": rotated / head_dim,
        "rope_scaling": _rope_scaling(metadata),
        "original_max_position_embeddings": metadata.get("rope.scaling.original_context_length"),
        "tie_word_embeddings": "output.weight" not in metadata.tensors,
        "dtype": _dtype(metadata),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _dtype(metadata: _Metadata) -> str:
    names = ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight")
    kinds = [metadata.tensors[name].type.name for name in names if name in metadata.tensors]
    return _DTYPES.get(kinds[0], "float32") if kinds else "float32"


def _rope_scaling(metadata: _Metadata) -> Fields | None:
    long, short = metadata.factors("rope_factors_long"), metadata.factors("rope_factors_short")
    attention_factor = metadata.get("rope.scaling.attn_factor")
    if long is not None and short is not None:
        fields = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
        return _with(fields, attention_factor=attention_factor)
    divisors = metadata.factors("rope_freqs")
    if divisors is not None:  # Llama 3's scaling, worked out for each frequency
        fields = {"rope_type": "longrope", "long_factor": divisors, "short_factor": divisors}
        return _with(fields, attention_factor=1.0)
    kind = metadata.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = metadata.get("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _with(
            {"rope_type": "yarn", "factor": factor},
            original_max_position_embeddings=metadata.get("rope.scaling.original_context_length"),
            attention_factor=attention_factor,
            beta_fast=metadata.get("rope.scaling.yarn_beta_fast"),
            beta_slow=metadata.get("rope.scaling.yarn_beta_slow"),
        )
    problem = f"{kind} is not one of: linear, longrope, none, yarn"
    raise ModelConfigError(f"{metadata.prefix}rope.scaling.type", problem)


def _with(fields: Fields, **more: Any) -> Fields:
    return fields | {name: value for name, value in more.items() if value is not None}


def _llama(metadata: _Metadata) -> Fields:
    has_bias = "blk.0.attn_q.bias" in metadata.tensors
    if metadata.get("expert_count", 0) > 0:
        fields = _common(metadata, "MixtralForCausalLM")
        return fields | {
            "num_local_experts": metadata.get("expert_count"),
            "num_experts_per_tok": metadata.required("expert_used_count"),
        }
    return _common(metadata, "LlamaForCausalLM") | {"attention_bias": has_bias}


def _qwen2(metadata: _Metadata) -> Fields:
    return _common(metadata, "Qwen2ForCausalLM")


def _qwen3(metadata: _Metadata) -> Fields:
    return _common(metadata, "Qwen3ForCausalLM")


def _qwen3_moe(metadata: _Metadata) -> Fields:
    fields = _common(metadata, "Qwen3MoeForCausalLM") | {
        "num_experts": metadata.required("expert_count"),
        "num_experts_per_tok": metadata.required("expert_used_count"),
        "moe_intermediate_size": metadata.required("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }
    # unused where every layer has experts, and 0 in some files
    return fields | {"intermediate_size": fields["moe_intermediate_size"]}


def _gemma(metadata: _Metadata, architecture: str) -> Fields:
    fields = _common(metadata, architecture)
    scale = fields["head_dim"]
    if fields["num_hidden_layers"] in _GEMMA_27B_LAYERS:
        scale = fields["hidden_size"] // fields["num_attention_heads"]
    return _with(
        fields,
        query_pre_attn_scalar=scale,
        sliding_window=metadata.get("attention.sliding_window"),
    )


def _gemma2(metadata: _Metadata) -> Fields:
    return _with(
        _gemma(metadata, "Gemma2ForCausalLM"),
        attn_logit_softcapping=metadata.get("attn_logit_softcapping"),
        final_logit_softcapping=metadata.get("final_logit_softcapping"),
    )


def _gemma3(metadata: _Metadata) -> Fields:
    return _with(
        _gemma(metadata, "Gemma3ForCausalLM"),
        rope_theta=metadata.get("rope.freq_base", 1e6),
        rope_local_base_freq=metadata.get("rope.freq_base_swa"),
        final_logit_softcapping=metadata.get("final_logit_softcapping"),
    )


def _phi3(metadata: _Metadata) -> Fields:
    window = metadata.get("attention.sliding_window") or None
    return _with(_common(metadata, "Phi3ForCausalLM"), sliding_window=window)


def _gpt2(metadata: _Metadata) -> Fields:
    fields = _common(metadata, "GPT2LMHeadModel")
    return {
        "architectures": fields["architectures"],
        "vocab_size": fields["vocab_size"],
        "n_embd": fields["hidden_size"],
        "n_layer": fields["num_hidden_layers"],
        "n_head": fields["num_attention_heads"],
        "n_positions": fields["max_position_embeddings"],
        "n_inner": metadata.required("feed_forward_length"),
        "layer_norm_epsilon": metadata.get("attention.layer_norm_epsilon", 1e-5),
        "tie_word_embeddings": fields["tie_word_embeddings"],
        "dtype": fields["dtype"],
    }


_ARCHITECTURES: Mapping[str, Callable[[_Metadata], Fields]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "qwen3moe": _qwen3_moe, "gemma2": _gemma2,
    "gemma3": _gemma3, "phi3": _phi3, "gpt2": _gpt2,
}  # fmt: skip
