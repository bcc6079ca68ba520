"""`llama` vocabularies: SentencePiece's BPE, in which blanks are a letter, and bytes are tokens."""

from collections.abc import Sequence

from mesh.gguf import GGUFError
from mesh.gguf_vocabulary import BYTE, CONTROL, UNKNOWN, USER_DEFINED
from services.tokenizer.gguf.vocabulary import Json, Vocabulary

_BLANK = "▁"
Merge = tuple[str, str]


def sentence_piece(vocabulary: Vocabulary) -> Json:
    """Return the tokenizer.json; raises GGUFError naming the entry at fault."""
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
            "merges": _merges(vocabulary),
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


def _merges(vocabulary: Vocabulary) -> list[Merge]:
    """Return all pairs of pieces that give a piece, the best piece's first.

    SentencePiece joins the two neighbours whose piece has the best score; what a piece was joined
    from does not matter. No text makes a control token or a byte, which llama.cpp lets happen.
    """
    pieces = {
        token: token_id
        for token, token_id in vocabulary.ids.items()
        if vocabulary.types[token_id] not in (CONTROL, UNKNOWN, BYTE)
    }
    merged = [token_id for token, token_id in pieces.items() if len(token) > 1]
    ranks = _ranks(vocabulary, merged)
    merges: list[Merge] = []
    for token_id in sorted(merged, key=ranks.__getitem__):
        token = vocabulary.tokens[token_id]
        merges += [
            (left, right)
            for cut in range(len(token) - 1, 0, -1)
            if (left := token[:cut]) in pieces and (right := token[cut:]) in pieces
        ]
    return merges


def _ranks(vocabulary: Vocabulary, merged: Sequence[int]) -> dict[int, tuple[float, int, int]]:
    """Return what sorts the pieces that merges make.

    Of equal scores llama.cpp joins the first in the text. That cannot be had of merges, but matters
    in two cases alone: pieces that users defined, of which a longer run of blanks goes first then,
    and files that have one score for all, whose pieces are in the order of their merges. So they
    are in Gemma's, of which some files have no true scores.
    """
    scores = vocabulary.get("scores")
    if scores is None:
        scores = [0.0] * len(vocabulary.tokens)
    if not isinstance(scores, list) or len(scores) != len(vocabulary.tokens):
        raise GGUFError("tokenizer.ggml.scores", f"must be {len(vocabulary.tokens)} numbers")
    is_by_id = vocabulary.architecture.startswith("gemma")
    ranks = {}
    for token_id in merged:
        is_defined = vocabulary.types[token_id] == USER_DEFINED
        length = len(vocabulary.tokens[token_id]) if is_defined else 0
        score = float(is_defined) if is_by_id else scores[token_id]
        ranks[token_id] = (-score, -length, token_id)
    return ranks
