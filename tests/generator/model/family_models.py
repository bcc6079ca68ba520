"""One small random model of each family, with everything in it that sets the family apart."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 89,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 21
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
}
GPT2_WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}


@dataclass(frozen=True)
class Sample:
    """How transformers builds the model: classes by name, and what differs from `SIZES`."""

    config: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 1) -> Any:
        """Return the reference with its initial weights, the same for a seed."""
        torch.manual_seed(seed)
        if self.config == "Gemma3Config":
            return build_gemma3_multimodal(self.changes)
        values = {**SIZES, **self.changes}
        if self.config == "GPT2Config":
            del values["num_key_value_heads"]
            values = {GPT2_WORDS.get(name, name): value for name, value in values.items()}
        config = getattr(transformers, self.config)(**values, attn_implementation="eager")
        return getattr(transformers, self.model)(config)


def build_gemma3_multimodal(text: dict[str, Any]) -> Any:
    """Return a Gemma 3 with a vision tower, which text alone does not touch."""
    config = transformers.Gemma3Config(
        text_config={**SIZES, **text},
        vision_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "image_size": 16, "patch_size": 8,
        },
        mm_tokens_per_image=4, boi_token_index=3, eoi_token_index=4, image_token_index=88,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


GEMMA3: dict[str, Any] = {
    "sliding_window": WINDOW, "sliding_window_pattern": 3, "head_dim": 24,
    "query_pre_attn_scalar": 40,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}  # fmt: skip

SAMPLES = {
    "llama": Sample("LlamaConfig", "LlamaForCausalLM"),
    "mistral": Sample("MistralConfig", "MistralForCausalLM", {"sliding_window": WINDOW}),
    "qwen2": Sample(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {
            "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2,
            "rope_parameters": YARN,
        },
    ),
    "qwen3": Sample("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 32}),
    "qwen3_moe": Sample(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "norm_topk_prob": False, "mlp_only_layers": [1], "head_dim": 16,
        },
    ),
    "qwen3_moe_normalized": Sample(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "norm_topk_prob": True, "decoder_sparse_step": 2, "head_dim": 16,
        },
    ),
    "mixtral": Sample(
        "MixtralConfig",
        "MixtralForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "gemma2": Sample(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            "sliding_window": WINDOW, "head_dim": 24, "query_pre_attn_scalar": 40,
            "attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0,
        },
    ),
    "gemma3": Sample("Gemma3TextConfig", "Gemma3ForCausalLM", GEMMA3),
    "gemma3_multimodal": Sample("Gemma3Config", "Gemma3ForConditionalGeneration", GEMMA3),
    "phi3": Sample("Phi3Config", "Phi3ForCausalLM", {"sliding_window": WINDOW}),
    "phi3_long": Sample(
        "Phi3Config",
        "Phi3ForCausalLM",
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 16},
        },
    ),
    "phi3_long_unused": Sample(
        "Phi3Config",
        "Phi3ForCausalLM",
        {
            "original_max_position_embeddings": 256,
            "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 256},
        },
    ),
    "gpt2": Sample("GPT2Config", "GPT2LMHeadModel"),
}  # fmt: skip
