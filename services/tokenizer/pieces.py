"""What each token id adds to a text, as bytes; and the decoder that joins them as they come.

The library decodes whole sequences only: its byte-level and sentencepiece decoders are taken
apart here, so that a token costs the same at the start and at the end of a long text.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizers import Tokenizer

from services.tokenizer.checkpoint import CheckpointError

# step kinds in the order in which the library applies them; byte-level stands alone
_KNOWN_DECODER = re.compile(r"ByteLevel |(Replace |Metaspace )*(ByteFallback )?(Fuse (Strip )?)?")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
EACH_BYTE = "infermesh.each_byte"


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    """Byte fallback shows one replacement per byte, where byte-level shows one per character."""
    assert isinstance(error, UnicodeDecodeError), "decoding only. This is a bug."
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _each_byte)


@dataclass(frozen=True, slots=True)
class Pieces:
    """`by_id` lacks special tokens and ids without a token: those add nothing.

    `special` is what special tokens add to a text that shows their names. `first` overrides both
    for the first token of a text (Metaspace drops its spaces); `strip` at most `strip_limit` times
    is cut from the start of a text; `errors` is a codec error handler. `bytes_by_fallback` are the
    tokens of a byte each, of which the decoder takes runs as a whole.
    """

    by_id: Mapping[int, bytes]
    special: Mapping[int, bytes] = field(default_factory=dict)
    first: Mapping[int, bytes] = field(default_factory=dict)
    strip: str = " "
    strip_limit: int = 0
    errors: str = "replace"
    bytes_by_fallback: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Pieces":
        """Return a byte-level or sentencepiece-like vocabulary's pieces; raise CheckpointError."""
        steps = _decoder_steps(tokenizer)
        kinds = [step["type"] for step in steps]
        if not steps or not _KNOWN_DECODER.fullmatch("".join(f"{kind} " for kind in kinds)):
            raise CheckpointError(
                f"tokenizer.json: decoder {kinds} is not supported; it must be byte-level "
                "or of the sentencepiece kind"
            )
        special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        tokens = {i: token for token, i in vocabulary.items()}
        if kinds == ["ByteLevel"]:
            pieces = cls({i: _byte_level(token) for i, token in tokens.items()})
        else:
            pieces = _sentencepiece(tokens, steps)
        return replace(
            pieces,
            by_id={i: piece for i, piece in pieces.by_id.items() if i not in special},
            special={i: piece for i, piece in pieces.by_id.items() if i in special},
        )

    def name(self, token_id: int) -> str:
        """Return the name of a special token; empty for others."""
        return self.special.get(token_id, b"").decode()

    def showing_special(self) -> "Pieces":
        """Return the pieces of a text that shows special tokens by their names."""
        return replace(self, by_id={**self.by_id, **self.special})


class TextDecoder:
    """Ids of one sequence to text, in any portions; bytes wait until they are a character.

    The portions add up to the library's decoding of all ids without special tokens. One exception:
    where a run of byte-fallback tokens is no UTF-8 as a whole, the library replaces all of it,
    while characters that were complete before the fault have been given out here.
    """

    __slots__ = ("_pieces", "_started", "_strip_left", "_utf8", "num_stripped")

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")(pieces.errors)
        self._started = not pieces.first
        self._strip_left = pieces.strip_limit
        self.num_stripped = 0

    def push(self, ids: Iterable[int], *, final: bool = False) -> str:
        """Return the text that these ids complete; `final` adds an incomplete character."""
        pieces = (
            filter(None, map(self._pieces.by_id.get, ids)) if self._started else self._begin(ids)
        )
        text = self._utf8.decode(b"".join(pieces), final)
        return self._stripped(text) if self._strip_left and text else text

    def piece(self, token_id: int) -> bytes:
        """Return the bytes that this id would add next, before any are cut from the start."""
        piece = self._pieces.by_id.get(token_id, b"")
        return piece if self._started else self._pieces.first.get(token_id, piece)

    def _begin(self, ids: Iterable[int]) -> Iterable[bytes]:
        for token_id in ids:
            yield self.piece(token_id)
            self._started = self._started or token_id in self._pieces.by_id

    def _stripped(self, text: str) -> str:
        kept = text.lstrip(self._pieces.strip)
        cut = min(len(text) - len(kept), self._strip_left)
        self._strip_left = 0 if cut < len(text) else self._strip_left - cut
        self.num_stripped += cut
        return text[cut:]


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    if tokenizer.decoder is None:
        return []
    decoder = json.loads(tokenizer.decoder.__getstate__())
    steps: list[dict[str, Any]] = (
        decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    )
    return steps


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    alphabet = {chr(b): b for b in printable}
    return alphabet | {chr(256 + n): b for n, b in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


# characters by the byte that they stand in for; those of no byte lie outside of Latin-1
_BYTES = dict.fromkeys(range(256), 256) | {ord(c): b for c, b in BYTE_ALPHABET.items()}


def _byte_level(token: str) -> bytes:
    """Tokens with characters outside the alphabet are added ones, written as they are."""
    try:
        return token.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _sentencepiece(tokens: dict[int, str], steps: list[dict[str, Any]]) -> Pieces:
    by_kind = {step["type"]: step for step in steps}
    strip = by_kind.get("Strip", {"content": " ", "start": 0, "stop": 0})
    if strip["stop"]:
        raise CheckpointError("tokenizer.json: a decoder that strips the end is not supported")
    replaced = [_replacement(step) for step in steps if step["type"] in ("Replace", "Metaspace")]
    fallback = "ByteFallback" in by_kind
    metaspace = by_kind.get("Metaspace", {"prepend_scheme": "never", "replacement": "▁"})
    space = metaspace["replacement"] if metaspace["prepend_scheme"] != "never" else None
    return Pieces(
        by_id={i: _piece(token, replaced, fallback) for i, token in tokens.items()},
        first={
            i: _piece(token.replace(space, ""), replaced, fallback)
            for i, token in tokens.items()
            if space is not None and space in token
        },
        strip=strip["content"],
        strip_limit=strip["start"],
        errors=EACH_BYTE if fallback else "replace",
        bytes_by_fallback=frozenset(
            i for i, token in tokens.items() if fallback and _BYTE_TOKEN.fullmatch(token)
        ),
    )


def _replacement(step: dict[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    pattern = step["pattern"].get("String", "")
    if len(pattern) != 1:  # a longer one could match across tokens
        raise CheckpointError("tokenizer.json: a decoder may replace single characters only")
    return pattern, step["content"]


def _piece(token: str, replaced: list[tuple[str, str]], fallback: bool) -> bytes:
    for old, new in replaced:
        token = token.replace(old, new)
    byte = _BYTE_TOKEN.fullmatch(token) if fallback else None
    return bytes([int(byte[1], 16)]) if byte else token.encode()
