"""SmolLM2-135M-Instruct for the benches: its GGUF file, and its weights in Hugging Face form.

The numbers of the file's 4 bits, rounded to bfloat16, are what engines without GGUF are given.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.common.checkpoints import SMOLLM_135M, parameter_shapes
from bench.peers.gguf_file import renamed
from cli.models.catalogue import CHAT_MODEL
from cli.models.locate import locate
from cli.models.store import Store, default_folder
from mesh.gguf import GGUFFile, find_gguf
from services.generator.model.checkpoint.gguf.hugging_face_fields import hugging_face_fields
from services.generator.model.checkpoint.gguf.weights import GGUFWeights

GGUF_FILE = "source.gguf"


def real_model_file(environ: Mapping[str, str]) -> Path:
    """Return the model's file; raises UnknownModelError, which says how to get it."""
    location = locate(CHAT_MODEL, Store(default_folder(environ)))
    path = find_gguf(location.path)
    assert path is not None
    return path


def real_model_config(file: Path) -> dict[str, Any]:
    """Return the fields of its `config.json`."""
    fields = hugging_face_fields(GGUFFile.read(file))
    return {**SMOLLM_135M, **fields, "dtype": "bfloat16", "torch_dtype": "bfloat16"}


def write_real_checkpoint(folder: Path, file: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json` and `model.safetensors` of the file, and a link to it beside them."""
    weights = GGUFWeights(GGUFFile.read(file))
    tensors = {
        name: weights.tensor(f"{renamed(name.removesuffix('.weight'))}.weight", *shape)
        .to(torch.bfloat16)
        .contiguous()
        for name, shape in parameter_shapes(config).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder.parent / GGUF_FILE).unlink(missing_ok=True)
    (folder.parent / GGUF_FILE).symlink_to(file)
