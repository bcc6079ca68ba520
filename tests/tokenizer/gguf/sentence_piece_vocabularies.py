"""Vocabularies of SentencePiece's kind to write into GGUF files."""

import random
from collections.abc import Iterator
from typing import Any

from mesh.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from tests.tokenizer.gguf.vocabularies import CONTEXT_LENGTH

LETTERS = "▁ab-"
_WORDS = (
    "the of and to in is that it was for on are as with his they at be this from have or by one "
    "had not but what all were when we there can an your which their said if do will each about "
    "how up out them then she many some so these would other into has more her two like him see "
    "time could no make than first been its who now people my made over did down only way find"
)


def sentence_piece_vocabulary(adds_blank: bool, architecture: str = "llama") -> dict[str, Any]:
    """Return metadata of a vocabulary with bytes, letters and the beginnings of common words."""
    tokens, types = _special("<turn>")
    letters = [chr(code) for code in range(0x21, 0x7F)] + [*"▁éßя中"]
    pieces = dict.fromkeys(["▁▁", "▁▁▁▁", *_beginnings(), *letters])
    tokens += pieces
    types += [NORMAL] * len(pieces)
    scores = [-float(index) for index in range(len(tokens))]
    return _metadata(architecture, tokens, types, scores, adds_blank)


def random_vocabulary(seed: int, adds_blank: bool, architecture: str = "llama") -> dict[str, Any]:
    """Return metadata of a vocabulary of a few letters with many long and overlapping pieces.

    Scores have no order, but for Gemma's, which go by the ids. Some pieces are unused; users
    defined runs of blanks, which in Gemma's are spelled as the letter and have one score.
    """
    draw = random.Random(seed)
    is_gemma = architecture.startswith("gemma")
    tokens, types = _special("<tool>", "\n\n", "\n\n\n")
    runs = [("▁" if is_gemma else " ") * length for length in (2, 3, 4, 5, 6, 7)]
    tokens += runs
    types += [USER_DEFINED] * len(runs)
    scores = [0.0] * len(tokens)
    pieces = [*LETTERS]
    while len(pieces) < 300:
        piece = draw.choice(pieces) + draw.choice(pieces)
        if len(piece) <= 10 and piece not in pieces and piece not in runs:
            pieces.append(piece)
    order = [*range(len(pieces))]
    if not is_gemma:
        draw.shuffle(order)
    tokens += [*pieces[len(LETTERS) :], *LETTERS]
    types += [UNUSED if draw.random() < 0.1 else NORMAL for _ in range(len(pieces))]
    scores += [-1.0 - index for index in order]
    return _metadata(architecture, tokens, types, scores, adds_blank)


def _special(*user_defined: str) -> tuple[list[str], list[int]]:
    """Return the tokens with which every vocabulary begins, and their types."""
    tokens = ["<unk>", "<s>", "</s>", *user_defined, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL, *([USER_DEFINED] * len(user_defined)), *([BYTE] * 256)]
    return tokens, types


def _metadata(
    architecture: str, tokens: list[str], types: list[int], scores: list[float], adds_blank: bool
) -> dict[str, Any]:
    return {
        "general.architecture": architecture,
        f"{architecture}.context_length": CONTEXT_LENGTH,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
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
