"""`gpt2` vocabularies: byte-level BPE within the words that a pre-tokenizer cuts."""

import logging
import re

from tokenizers.pre_tokenizers import ByteLevel

from mesh.gguf import GGUFError
from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from services.tokenizer.gguf.vocabulary import Json, Vocabulary

logger = logging.getLogger(__name__)

Merge = tuple[str, str]


def byte_level(vocabulary: Vocabulary) -> Json:
    """Return the tokenizer.json; raises GGUFError naming the entry at fault."""
    pre_tokenizer = _pre_tokenizer(vocabulary)
    splits = [_split(each) for each in pre_tokenizer.expressions]
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return vocabulary.json(
        {"ignore_merges": pre_tokenizer.ignores_merges, "merges": _merges(vocabulary)},
        pre_tokenizer.adds_bos,
        normalizer=None,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [*splits, {**step, "use_regex": False}, *_lost_bytes(vocabulary)],
        },
        decoder={**step, "use_regex": True},
    )


def _pre_tokenizer(vocabulary: Vocabulary) -> PreTokenizer:
    name = vocabulary.get("pre")
    if name is None:
        logger.warning("tokenizer.ggml.pre is missing: default is taken, as llama.cpp does")
        name = "default"
    if name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise GGUFError("tokenizer.ggml.pre", f"{name} is not one of: {known}")
    return PRE_TOKENIZERS[name]


def _merges(vocabulary: Vocabulary) -> list[Merge]:
    """Return the merges that two tokens have, and that give one."""
    texts = vocabulary.get("merges")
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise GGUFError("tokenizer.ggml.merges", "must be a list of texts")
    ids = vocabulary.ids
    # a token begins with no blank but its first character
    cuts = ((text, text.find(" ", 1)) for text in texts)
    merges = [(text[:cut], text[cut + 1 :]) for text, cut in cuts if cut > 0]
    known = [each for each in merges if each[0] in ids and each[1] in ids and "".join(each) in ids]
    if len(known) < len(texts):
        logger.warning(
            "tokenizer.ggml.merges: %d of %d are of no tokens", len(texts) - len(known), len(texts)
        )
    return known


def _split(expression: str) -> Json:
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _lost_bytes(vocabulary: Vocabulary) -> list[Json]:
    """Return what keeps the neighbours of bytes that the vocabulary lacks from joining.

    Where whole words go before merges, llama.cpp takes no rest of a word with such a byte for one.
    """
    letters = ByteLevel.alphabet()
    lost = "".join(re.escape(each) for each in sorted(letters) if each not in vocabulary.ids)
    return [_split(f"[{lost}]")] if lost else []
