"""A GGUF vocabulary as a tokenizer.json, by the kind that the file names."""

import json
from collections.abc import Callable, Mapping

from mesh.gguf import GGUFError
from services.tokenizer.gguf.byte_level import byte_level
from services.tokenizer.gguf.sentence_piece import sentence_piece
from services.tokenizer.gguf.vocabulary import Json, Vocabulary

_KINDS: Mapping[str, Callable[[Vocabulary], Json]] = {"gpt2": byte_level, "llama": sentence_piece}


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """Return the text of the file; raises GGUFError naming the entry at fault."""
    kind = vocabulary.get("model")
    if kind not in _KINDS:
        raise GGUFError("tokenizer.ggml.model", f"{kind} is not one of: {', '.join(_KINDS)}")
    return json.dumps(_KINDS[kind](vocabulary), ensure_ascii=False, separators=(",", ":"))
