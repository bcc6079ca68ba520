"""Writes a checkpoint as a Hugging Face model folder, file by file in place of the old one."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from services.tokenizer.checkpoint import GROUNDING_FILE
from training.grounding import GROUNDING
from training.model import Shape, TinyLlama
from training.tokenizer import BEGIN, END, PAD, ROLES, TEMPLATE


def export(model: TinyLlama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (bfloat16), configuration and tokenizer into `folder`.

    Everything is written beside the folder first and then renamed, so that a reader never meets
    a half-written file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        target = Path(temporary)
        weights = {
            name: weight.detach().to(torch.bfloat16).contiguous()
            for name, weight in model.state_dict().items()
        }
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(str(target / "tokenizer.json"))
        for name, content in settings(model.shape, tokenizer).items():
            (target / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        (target / GROUNDING_FILE).write_text(GROUNDING.text())
        for path in sorted(target.iterdir()):
            path.chmod(0o644)
            path.replace(folder / path.name)


def settings(shape: Shape, tokenizer: Tokenizer) -> dict[str, dict[str, object]]:
    """Return the JSON files of the folder."""
    begin, end, pad = (tokenizer.token_to_id(token) for token in (BEGIN, END, PAD))
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    generation: dict[str, object] = {
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": pad,
        "do_sample": False,
        "max_new_tokens": 128,
    }
    words: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": list(ROLES.values()),
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.positions,
        "chat_template": TEMPLATE,
    }
    return {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": words,
    }
