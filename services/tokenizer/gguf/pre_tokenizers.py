"""Pre-tokenizers by their names in GGUF files (`tokenizer.ggml.pre`).

The names, and which expressions each stands for, are llama.cpp's (llama-vocab.cpp). Expressions are
applied one after the other, each to what those before it have left in pieces.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class PreTokenizer(NamedTuple):
    """How text is cut into words before merges; `ignores_merges` takes whole words first."""

    expressions: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False


_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"(?:(?=[\p{L}])(?:[^a-z]))", r"(?:(?=[\p{L}])(?:[^A-Z]))"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_KANA_AND_HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# blanks lie within these, and llama.cpp takes none of them for a letter
_HAN_AND_HANGUL = "(?:(?!\\s)[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff])+"
_DEEPSEEK_3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}"
)


def _words(digits: str, after: str = r"[\r\n]*") -> str:
    """Return the expression of GPT-4 and its descendants, for runs of so many digits."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+{after}|{_BLANKS}"
    )


def _cased_words(digits: str, contractions: str = "") -> str:
    """Return the expression of GPT-4o and Tekken, which cuts where lower case turns upper."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{contractions}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{contractions}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
    )


def _named(names: str, pre_tokenizer: PreTokenizer) -> Iterable[tuple[str, PreTokenizer]]:
    return ((name, pre_tokenizer) for name in names.split())


_ONE, _THREE = r"\p{N}", r"\p{N}{1,3}"

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = dict(
    [
        *_named(
            "default", PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
        ),
        *_named(
            "gpt-2 phi-2 mpt olmo jais roberta-bpe gigachat exaone4 mellum", PreTokenizer((_GPT2,))
        ),
        *_named(
            "starcoder refact command-r smollm codeshell exaone minerva-7b",
            PreTokenizer((_ONE, _GPT2)),
        ),
        *_named(
            "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
            PreTokenizer((_words(_THREE),), ignores_merges=True, adds_bos=True),
        ),
        *_named("dbrx smaug-bpe glm4 chatglm-bpe", PreTokenizer((_words(_THREE),))),
        *_named("qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan", PreTokenizer((_words(_ONE),))),
        *_named("grok-2", PreTokenizer((_words(_ONE),))),
        *_named("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
        *_named("deepseek-v3 hunyuan-dense", PreTokenizer((_THREE, _KANA_AND_HAN, _DEEPSEEK_3))),
        *_named(
            "deepseek-coder",
            PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, _ONE)),
        ),
        *_named("poro-chat bloom gpt3-finnish", PreTokenizer((_BLOOM,))),
        *_named("viking", PreTokenizer((_BLOOM, _ONE))),
        *_named("tekken", PreTokenizer((_cased_words(_ONE),), ignores_merges=True, adds_bos=True)),
        *_named("gpt-4o llama4", PreTokenizer((_cased_words(_THREE, f"{_CONTRACTIONS}?"),))),
    ]
)
