"""Tensor names of GGUF files, in the places where our families have Hugging Face's."""

from collections.abc import Mapping
from dataclasses import replace

from services.generator.model.checkpoint.families import ExpertNames, WeightNames

_COMMON = WeightNames(
    roots=("",),
    embedding="token_embd",
    layer="blk.{}.",
    norm="output_norm",
    head="output",
    attention_norm="attn_norm",
    qkv=("attn_q", "attn_k", "attn_v"),
    out="attn_output",
    mlp_norm="ffn_norm",
    gate_up=("ffn_gate", "ffn_up"),
    down="ffn_down",
)
# a stack of all experts is one tensor, of which a name with a number is a slice
_EXPERTS = ExpertNames("ffn_gate_inp", ("ffn_gate_exps.{}", "ffn_up_exps.{}"), "ffn_down_exps.{}")
_HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
_NORMS_AFTER = replace(
    _COMMON, post_attention_norm="post_attention_norm", post_mlp_norm="post_ffw_norm"
)

TENSOR_NAMES: Mapping[str, WeightNames] = {
    "LlamaForCausalLM": _COMMON,
    "MistralForCausalLM": _COMMON,
    "MixtralForCausalLM": replace(_COMMON, experts=_EXPERTS),
    "Qwen2ForCausalLM": _COMMON,
    "Qwen3ForCausalLM": replace(_COMMON, head_norms=_HEAD_NORMS),
    "Qwen3MoeForCausalLM": replace(_COMMON, head_norms=_HEAD_NORMS, experts=_EXPERTS),
    "Gemma2ForCausalLM": _NORMS_AFTER,
    "Gemma3ForCausalLM": replace(_NORMS_AFTER, head_norms=_HEAD_NORMS),
    "Phi3ForCausalLM": replace(_COMMON, qkv=("attn_qkv",), gate_up=("ffn_up",)),
    "GPT2LMHeadModel": replace(
        _COMMON, positions="position_embd", qkv=("attn_qkv",), gate_up=("ffn_up",)
    ),
}
