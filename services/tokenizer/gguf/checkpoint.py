"""A GGUF file as the tokenizer's checkpoint."""

import hashlib
from pathlib import Path

from mesh.gguf import GGUFError, GGUFFile, find_gguf, model_name
from mesh.gguf_vocabulary import TOKENS, end_token_ids
from services.tokenizer.checkpoint import (
    GROUNDING_FILE,
    REVISION_DIGITS,
    Checkpoint,
    CheckpointError,
    read_text,
)
from services.tokenizer.gguf.tokenizer_json import tokenizer_json

_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # so spelled in the format
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}


def read_checkpoint(model: str, model_id: str = "") -> Checkpoint:
    """Read a Hugging Face folder or a GGUF file; raises CheckpointError."""
    try:
        path = find_gguf(Path(model))
        if path is None:
            return Checkpoint.read(model, model_id)
        file = GGUFFile.read(path)
        grounding = read_text(path.parent / GROUNDING_FILE)
        return _checkpoint(file, model_id or model_name(Path(model)), grounding)
    except (GGUFError, OSError) as error:
        raise CheckpointError(f"{model}: {error}") from error


def _checkpoint(file: GGUFFile, name: str, grounding_json: str | None) -> Checkpoint:
    metadata = file.metadata
    tokens: list[str] = metadata.get(TOKENS, [])
    text = tokenizer_json(metadata)
    template = metadata.get("tokenizer.chat_template")
    architecture = metadata.get("general.architecture")
    context_length = metadata.get(f"{architecture}.context_length")
    if not isinstance(context_length, int) or context_length < 1:
        raise CheckpointError(f"{architecture}.context_length: must be a positive integer")
    embedding = file.tensors.get("token_embd.weight")
    digest = hashlib.sha256(f"{len(text)} {text}{template}".encode())
    special = {
        name: tokens[token_id]
        for name, entry in _NAMES.items()
        if isinstance(token_id := metadata.get(f"tokenizer.ggml.{entry}_token_id"), int)
        and 0 <= token_id < len(tokens)
    }
    return Checkpoint(
        id=name,
        revision=digest.hexdigest()[:REVISION_DIGITS],
        tokenizer_json=text,
        chat_template=template if isinstance(template, str) else None,
        special_tokens=special,
        context_length=context_length,
        vocab_size=len(tokens) if embedding is None else embedding.shape[0],
        eos_token_ids=end_token_ids(metadata),
        grounding_json=grounding_json,
    )
