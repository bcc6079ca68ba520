"""Small random models, written by transformers and read by us."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 89,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which wait for each other on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def make_llama(tmp_path: Path) -> Callable[..., tuple[LlamaForCausalLM, Path]]:
    """Return a maker of a reference model and the folder it is saved in."""

    def make(**changes: Any) -> tuple[LlamaForCausalLM, Path]:
        config = LlamaConfig(**{**TINY, **changes}, attn_implementation="eager")
        # else the weights depend on the tests before; with these no token is a close call
        torch.manual_seed(3)
        model = LlamaForCausalLM(config)
        save(model, tmp_path)
        return model, tmp_path

    return make


def save(model: Any, folder: Path) -> None:
    """Give the weights random values in which each tensor matters, and write the checkpoint."""
    torch.manual_seed(0)
    model.eval().float()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        for parameter in model.parameters():
            # Wide enough that the tokens differ, and that biases and norms matter.
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
