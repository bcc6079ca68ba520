"""A GGUF file as the tokenizer's checkpoint."""

import hashlib
from contextlib import suppress
from pathlib import Path

from mesh.gguf import GGUFError, GGUFFile, find_gguf, model_name
from services.tokenizer.checkpoint import (
    GROUNDING_FILE,
    REVISION_DIGITS,
    Checkpoint,
    CheckpointError,
    read_text,
)
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from services.tokenizer.gguf.vocabulary import Vocabulary

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
    vocabulary = Vocabulary(metadata)
    text = tokenizer_json(vocabulary)
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise CheckpointError("tokenizer.chat_template: must be a text")
    architecture = vocabulary.architecture
    context_length = metadata.get(f"{architecture}.context_length")
    if not isinstance(context_length, int) or context_length < 1:
        raise CheckpointError(f"{architecture}.context_length: must be a positive integer")
    embedding = file.tensors.get("token_embd.weight")
    digest = hashlib.sha256(f"{len(text)} {text}{template}".encode())
    return Checkpoint(
        id=name,
        revision=digest.hexdigest()[:REVISION_DIGITS],
        tokenizer_json=text,
        chat_template=template,
        special_tokens=_special_tokens(vocabulary),
        context_length=context_length,
        vocab_size=len(vocabulary.tokens) if embedding is None else embedding.shape[0],
        eos_token_ids=vocabulary.end_token_ids(),
        grounding_json=grounding_json,
    )


def _special_tokens(vocabulary: Vocabulary) -> dict[str, str]:
    """Return the texts that a template knows by names; an id of no token stands for none."""
    tokens = {}
    for name, entry in _NAMES.items():
        with suppress(GGUFError):
            tokens[name] = vocabulary.token(entry)
    return {name: token for name, token in tokens.items() if token is not None}
