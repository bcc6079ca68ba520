"""The families of decoders that can be served: what sets each apart from Llama, as data.

A family says which layers it is made of, what its `config.json` calls things, and what its tensors
are named. `config.py` reads numbers by it and `decoder.py` runs it; neither knows a family's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Tensor names of a mixture of experts; `{}` is the expert's number."""

    router: str = "mlp.gate"
    gate_up: tuple[str, ...] = ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj")
    down: str = "mlp.experts.{}.down_proj"


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Tensor names below a root, without `.weight` or `.bias`; None where a family has no such.

    Several names for one product are stacked when read; one name is a tensor stored stacked.
    """

    # The first below which there is an embedding; a file saved without its head has none.
    roots: tuple[str, ...] = ("model.", "")
    embedding: str = "embed_tokens"
    positions: str | None = None
    layer: str = "layers.{}."
    norm: str = "norm"
    head: str = "lm_head"  # not below the root
    attention_norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    head_norms: tuple[str, str] | None = None  # of queries, of keys
    out: str = "self_attn.o_proj"
    post_attention_norm: str | None = None
    mlp_norm: str = "post_attention_layernorm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    post_mlp_norm: str | None = None
    experts: ExpertNames | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """The structure of a decoder; the defaults are Llama's.

    A bias is fixed, or the configuration field that says so. `window` says which layers see only
    `sliding_window` tokens where the file does not list them: none, every one, those from
    `max_window_layers` on, or all but each `sliding_window_pattern`-th.
    """

    architectures: tuple[str, ...]
    weights: WeightNames = WeightNames()
    section: str | None = None  # of `config.json`, that describes the decoder
    # What the file calls a field, where that is not Llama's word; the first that is there counts.
    names: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NOTHING)
    # What transformers assumes for a field that the file leaves out.
    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    # Options of the family of which only this value is implemented.
    required: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    norm: Literal["rms", "rms_offset", "layer"] = "rms"  # rms_offset multiplies by 1 + weight
    has_rope: bool = True
    local_theta: float | None = None  # rotary base of windowed layers, where it is another
    is_gated: bool = True
    # Of hidden_size, where the file has no intermediate_size.
    mlp_ratio: int | None = None
    qkv_bias: bool | str = "attention_bias"
    out_bias: bool | str = "attention_bias"
    mlp_bias: bool | str = False
    is_transposed: bool = False  # matrices are stored [in, out]
    scales_embedding: bool = False  # by sqrt(hidden_size)
    window: Literal["none", "every", "upper", "pattern"] = "none"


_LLAMA = Family(("LlamaForCausalLM",), mlp_bias="mlp_bias")

_MISTRAL = Family(
    ("MistralForCausalLM",),
    defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    qkv_bias=False,
    out_bias=False,
    window="every",
)

_QWEN2 = Family(
    ("Qwen2ForCausalLM",),
    defaults={"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
    qkv_bias=True,
    out_bias=False,
    window="upper",
)

_QWEN3 = Family(
    ("Qwen3ForCausalLM",),
    weights=WeightNames(head_norms=("self_attn.q_norm", "self_attn.k_norm")),
    defaults=dict(_QWEN2.defaults) | {"head_dim": 128},
    window="upper",
)

_QWEN3_MOE = Family(
    ("Qwen3MoeForCausalLM",),
    weights=replace(_QWEN3.weights, experts=ExpertNames()),
    names={"num_experts": ("num_experts", "num_local_experts")},
    defaults={
        "sliding_window": 4096, "use_sliding_window": False, "norm_topk_prob": False,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    },
    window="every",
)  # fmt: skip

_MIXTRAL = Family(
    ("MixtralForCausalLM",),
    weights=WeightNames(
        experts=ExpertNames(
            "block_sparse_moe.gate",
            ("block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3"),
            "block_sparse_moe.experts.{}.w2",
        )
    ),
    names={"num_experts": ("num_local_experts",), "moe_intermediate_size": ("intermediate_size",)},
    defaults={
        "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 8,
        "num_local_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True,
    },
    qkv_bias=False,
    out_bias=False,
    window="every",
)  # fmt: skip

_GEMMA2 = Family(
    ("Gemma2ForCausalLM",),
    weights=WeightNames(
        post_attention_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        post_mlp_norm="post_feedforward_layernorm",
    ),
    names={"hidden_act": ("hidden_activation",)},
    defaults={
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "sliding_window": 4096, "sliding_window_pattern": 2, "tie_word_embeddings": True,
    },
    required={"use_bidirectional_attention": False},
    norm="rms_offset",
    scales_embedding=True,
    window="pattern",
)  # fmt: skip

_GEMMA3 = Family(
    ("Gemma3ForCausalLM",),
    weights=replace(_GEMMA2.weights, head_norms=("self_attn.q_norm", "self_attn.k_norm")),
    names=_GEMMA2.names,
    defaults={
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "query_pre_attn_scalar": 256,
        "rope_theta": 1e6,
        "sliding_window": 4096, "sliding_window_pattern": 6, "tie_word_embeddings": True,
    },
    required={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    norm="rms_offset",
    local_theta=1e4,
    scales_embedding=True,
    window="pattern",
)  # fmt: skip

# The text side of the larger sizes, whose files are those of a model that also sees.
_GEMMA3_MULTIMODAL = replace(
    _GEMMA3,
    architectures=("Gemma3ForConditionalGeneration",),
    weights=replace(_GEMMA3.weights, roots=("model.language_model.", "language_model.model.")),
    section="text_config",
    defaults=dict(_GEMMA3.defaults) | {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
)  # fmt: skip

_PHI3 = Family(
    ("Phi3ForCausalLM",),
    weights=WeightNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",)),
    defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
    qkv_bias=False,
    out_bias=False,
    window="every",
)

_GPT2 = Family(
    ("GPT2LMHeadModel",),
    weights=WeightNames(
        roots=("transformer.", ""), embedding="wte", positions="wpe", layer="h.{}.", norm="ln_f",
        attention_norm="ln_1", qkv=("attn.c_attn",), out="attn.c_proj",
        mlp_norm="ln_2", gate_up=("mlp.c_fc",), down="mlp.c_proj",
    ),
    names={
        "hidden_size": ("n_embd",), "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",), "max_position_embeddings": ("n_positions",),
        "intermediate_size": ("n_inner",), "hidden_act": ("activation_function",),
        "rms_norm_eps": ("layer_norm_epsilon",),
    },
    defaults={
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    },
    required={
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    norm="layer",
    has_rope=False,
    is_gated=False,
    mlp_ratio=4,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    is_transposed=True,
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    architecture: family
    for family in (
        _LLAMA, _MISTRAL, _MIXTRAL, _QWEN2, _QWEN3, _QWEN3_MOE, _GEMMA2, _GEMMA3,
        _GEMMA3_MULTIMODAL, _PHI3, _GPT2,
    )
    for architecture in family.architectures
}  # fmt: skip
