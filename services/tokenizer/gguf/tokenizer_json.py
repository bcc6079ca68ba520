"""A GGUF vocabulary as a tokenizer.json: byte-level BPE, or SentencePiece's BPE."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from mesh.gguf_vocabulary import CONTROL, TOKEN_TYPES, TOKENS, USER_DEFINED
from services.tokenizer.checkpoint import CheckpointError
from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

logger = logging.getLogger(__name__)

_UNKNOWN, _BYTE = 2, 6
_BLANK = "▁"
Json = dict[str, Any]
Merge = tuple[str, str]


def tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """Return the text of the file; raises CheckpointError naming the entry at fault."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return json.dumps(_byte_level(_Vocabulary(metadata)))
    if kind == "llama":
        return json.dumps(_sentence_piece(_Vocabulary(metadata)))
    raise CheckpointError(f"tokenizer.ggml.model: {kind} is not one of: gpt2, llama")


class _Vocabulary:
    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.tokens: list[str] = metadata.get(TOKENS, [])
        self.types: list[int] = metadata.get(TOKEN_TYPES, [1] * len(self.tokens))
        if not self.tokens or len(self.types) != len(self.tokens):
            raise CheckpointError(f"{TOKENS}: there are none, or {TOKEN_TYPES} has not as many")
        self.ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise CheckpointError(f"{TOKENS}: some token is there twice")

    def get(self, name: str, default: Any = None) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{name}", default)

    def token(self, name: str) -> str | None:
        """Return the token whose id an entry names."""
        token_id = self.get(f"{name}_token_id")
        known = isinstance(token_id, int) and 0 <= token_id < len(self.tokens)
        return self.tokens[token_id] if known else None

    @property
    def added_tokens(self) -> list[Json]:
        """Those that text is searched for before anything else; controls are special."""
        added = (CONTROL, USER_DEFINED, _UNKNOWN)
        return [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != USER_DEFINED,
            }
            for token_id, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in added
        ]

    def json(self, model: Json, adds_bos: bool, **parts: Json | None) -> Json:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens,
            "post_processor": self._post_processor(adds_bos),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self.ids,
                **model,
            },
            **parts,
        }

    def _post_processor(self, adds_bos: bool) -> Json | None:
        bos = self.token("bos") if self.get("add_bos_token", adds_bos) else None
        eos = self.token("eos") if self.get("add_eos_token", False) else None
        around = [token for token in (bos, eos) if token is not None]
        if not around:
            return None

        def template(sequence: str, type_id: int) -> list[Json]:
            middle = {"Sequence": {"id": sequence, "type_id": type_id}}
            sides = [
                [] if token is None else [{"SpecialToken": {"id": token, "type_id": type_id}}]
                for token in (bos, eos)
            ]
            return [*sides[0], middle, *sides[1]]

        return {
            "type": "TemplateProcessing",
            "single": template("A", 0),
            "pair": template("A", 0) + template("B", 1),
            "special_tokens": {
                token: {"id": token, "ids": [self.ids[token]], "tokens": [token]}
                for token in around
            },
        }


def _byte_level(vocabulary: _Vocabulary) -> Json:
    pre_tokenizer = _pre_tokenizer(vocabulary)
    splits = [_split(each) for each in pre_tokenizer.expressions]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    merges = vocabulary.get("merges")
    if not isinstance(merges, list):
        raise CheckpointError("tokenizer.ggml.merges: is missing")
    return vocabulary.json(
        {
            "ignore_merges": pre_tokenizer.ignores_merges,
            "merges": [merge for each in merges if (merge := _merge(each, vocabulary.ids))],
        },
        pre_tokenizer.adds_bos,
        normalizer=None,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                *splits,
                {**byte_level, "use_regex": False},
                *_lost_bytes(vocabulary),
            ],
        },
        decoder={**byte_level, "use_regex": True},
    )


def _split(expression: str) -> Json:
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _lost_bytes(vocabulary: _Vocabulary) -> list[Json]:
    """Return what keeps the neighbours of bytes that the vocabulary lacks from joining."""
    letters = ByteLevel.alphabet()
    lost = "".join(re.escape(each) for each in sorted(letters) if each not in vocabulary.ids)
    return [_split(f"[{lost}]")] if lost else []


def _pre_tokenizer(vocabulary: _Vocabulary) -> PreTokenizer:
    name = vocabulary.get("pre")
    if name is None:
        logger.warning("tokenizer.ggml.pre is missing: default is taken, as llama.cpp does")
        name = "default"
    if name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise CheckpointError(f"tokenizer.ggml.pre: {name} is not one of: {known}")
    return PRE_TOKENIZERS[name]


def _merge(text: str, ids: Mapping[str, int]) -> Merge | None:
    """Return a merge of two tokens, None where one of them or the result is none."""
    left, _, right = text[1:].partition(" ")
    left = text[:1] + left
    return (left, right) if {left, right, left + right} <= ids.keys() else None


def _sentence_piece(vocabulary: _Vocabulary) -> Json:
    """Return SentencePiece's BPE: blanks are a letter, unknown letters become their bytes."""
    adds_blank = vocabulary.get("add_space_prefix", True)
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
    prefix: list[Json] = [{"type": "Prepend", "prepend": _BLANK}] if adds_blank else []
    strip: list[Json] = (
        [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_blank else []
    )
    return vocabulary.json(
        {
            "unk_token": vocabulary.token("unknown"),
            "fuse_unk": True,
            "byte_fallback": True,
            "merges": list(_merges_of_scores(vocabulary)),
        },
        adds_bos=True,
        normalizer={"type": "Sequence", "normalizers": [*prefix, blank]},
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
    )


def _merges_of_scores(vocabulary: _Vocabulary) -> Iterator[Merge]:
    """Yield the merges that give the tokens, the best token's first.

    SentencePiece joins the two neighbours whose token has the best score; what a token was joined
    from does not matter. Gemma's scores say nothing, and its ids are in their order.
    """
    scores: Sequence[float] = vocabulary.get("scores") or []
    is_by_id = len(scores) != len(vocabulary.tokens) or str(
        vocabulary.metadata.get("general.architecture")
    ).startswith("gemma")
    ids = vocabulary.ids
    hidden = (CONTROL, _UNKNOWN, _BYTE)
    merged = [
        token_id
        for token_id, token in enumerate(vocabulary.tokens)
        if len(token) > 1 and vocabulary.types[token_id] not in hidden
    ]
    if not is_by_id:
        merged.sort(key=lambda token_id: -scores[token_id])
    for token_id in merged:
        token = vocabulary.tokens[token_id]
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        yield from sorted(known, key=lambda merge: (ids[merge[0]], ids[merge[1]]))
