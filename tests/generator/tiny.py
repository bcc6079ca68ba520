"""A random Llama of a few kilobytes and an engine over it that starts in milliseconds."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from services.generator.engine import Engine, EngineConfig, StepOutput
from services.generator.loading import load_engine

VOCAB, CONTEXT, EOS = 96, 256, 95
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "dtype": "float32",
    "eos_token_id": EOS,
}


def write_checkpoint(folder: Path) -> Path:
    """Writes the checkpoint; the same weights every time."""
    generator = torch.Generator().manual_seed(7)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {"model.embed_tokens.weight": weight(VOCAB, 64), "model.norm.weight": torch.ones(64)}
    shapes = {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (32, 64),
        "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (128, 64),
        "mlp.up_proj": (128, 64),
        "mlp.down_proj": (64, 128),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = torch.ones(64)
        for name, shape in shapes.items():
            tensors[f"{prefix}.{name}.weight"] = weight(*shape)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def load(folder: Path, *, max_num_seqs: int = 8) -> Engine:
    """An engine of one thread."""
    return load_engine(
        EngineConfig(folder, max_num_seqs=max_num_seqs, kv_cache_bytes=2**22, num_threads=1, seed=1)
    )


class Ear:
    """A listener that remembers each hand-off."""

    def __init__(self) -> None:
        self.calls: list[list[StepOutput]] = []

    def receive(self, outputs: list[StepOutput]) -> None:
        self.calls.append(outputs)

    @property
    def outputs(self) -> list[StepOutput]:
        return [output for call in self.calls for output in call]

    def tokens(self, name: str) -> list[int]:
        return [t for o in self.outputs if o.request_id == name for t in o.token_ids]

    def ends(self) -> dict[str, object]:
        return {o.request_id: o.finish_reason for o in self.outputs if o.finish_reason is not None}
