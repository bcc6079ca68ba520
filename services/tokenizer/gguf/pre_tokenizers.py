r"""Pre-tokenizers by their names in GGUF files (`tokenizer.ggml.pre`).

The names, and the rule that each stands for, are llama.cpp's (llama-vocab.cpp, unicode.cpp): files
are made and tried with it. Where its rule only comes near the model's own, so does ours: ids are
those by which everyone else runs the file. The notable cases: `gpt-4o`, `tekken` and their kin take
non-ASCII letters for both cases and leave combining marks out of words; `youtu` and `tiny_aya` do
not look at case; `kimi-k2` neither; a class of `afmoe` reaches from U+8C48 to U+FAFF.

Expressions are Oniguruma's. They are applied one after the other, each to what those before it have
left in pieces, and take linear time on any text (llama.cpp's own do not: rewritten ones say so).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple


class PreTokenizer(NamedTuple):
    """How text is cut into words before merges; `ignores_merges` takes whole words first."""

    expressions: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False


_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ONE, _THREE, _ANY = r"\p{N}", r"\p{N}{1,3}", r"\p{N}+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LETTERS_AND_MARKS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_KANA_AND_HAN = r"[\u4e00-\u9fa5\u3040-\u30ff]+"
# blanks lie within, and count for none of it
_HAN_AND_HANGUL = r"[[\u0800-\u9fa5\uac00-\ud7ff]&&[^\s]]+"
_HAN = (
    r"\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\x{20000}-\x{2a6df}\x{2a700}-\x{2ebef}"
    r"\x{2f800}-\x{2fa1f}"
)
_PUNCTUATED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_LETTERS_AFTER_SIGN = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK_3 = rf"{_PUNCTUATED}|{_LETTERS_AFTER_SIGN}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}"
# thousands from the right; the first group takes what is before it along (linear: a group of one or
# two is tried at the beginning of a number alone, and a text without numbers is one match)
_THOUSANDS = r"[^\p{N}]*+(?:(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}{3}|\z)"
# the same of ASCII digits, which other numbers may surround: full groups take along what follows up
# to the next one, and so does the beginning of a text that is none
_FULL_GROUPS = r"(?:[0-9]{3})+(?![0-9])"
_ASCII_THOUSANDS = (
    rf"(?:\A(?!{_FULL_GROUPS})|[0-9]{{3}})(?:[^0-9]|(?<![0-9])[0-9]{{1,2}}(?![0-9]))*+"
    rf"(?:(?<![0-9])[0-9]{{1,2}}(?={_FULL_GROUPS}))?"
)
_CJK_OF_AFMOE = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0eff"
    r"\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_CJK_OF_YOUTU = (
    r"[\uac00-\ud7a3\u3131-\u318e]+"
    r"|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    rf"|[\u3105-\u312f]+|{_KANA_AND_HAN}"
)


def _ranges(ends: str) -> str:
    """Return the inside of a character class from code points and ranges of them, in hex."""
    return re.sub(r"[0-9A-F]+", r"\\x{\g<0>}", ends).replace(" ", "")


# letters that have a case, as far as DeepSeek LLM's tokenizer lists them
_CASED = _ranges(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386"
    " 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD"
    " 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D"
    " 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3"
    " 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128"
    " 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE"
    " 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17"
    " FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2"
    " 118A0-118DF 1E900-1E943"
)
# what Unicode 16 added: `tokenizers` knows it, llama.cpp's tables are of 15.1
_UNICODE_16 = _ranges(
    "897 1B4E-1B4F 1B7F 1C89-1C8A 2427-2429 31E4-31E5 A7CB-A7CD A7DA-A7DC 105C0-105F3 10D40-10D8F"
    " 10EC2-10EFC 11380-113E2 116D0-116E3 11BC0-11BF9 11F5A 13460-143FA 16100-16139 16D40-16D79"
    " 18CFF 1CC00-1CEB3 1E5D0-1E5FF 1F8B2-1F8C1 1FA89-1FA8F 1FABE 1FAC6 1FADC-1FADF 1FAE9"
    " 1FBCB-1FBEF"
)


def _words(digits: str, contractions: str = f"{_CONTRACTIONS}|", signs: str = _SIGNS) -> str:
    """Return the expression of GPT-4 and its descendants, for runs of so many digits."""
    return rf"{contractions}{_LETTERS}|{digits}|{signs}|{_BLANKS}"


def _cased_words(digits: str, contractions: str, letters: str = r"\p{L}") -> str:
    """Return the expression of GPT-4o and Tekken, which cuts where lower case turns upper."""
    upper, lower = f"[{letters}&&[^a-z]]", f"[{letters}&&[^A-Z]]"
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{contractions}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{contractions}"
        rf"|{digits}|{_SIGNS_AND_SLASHES}|{_BLANKS}"
    )


def _uncased_words(digits: str) -> str:
    """Return the expression of `_cased_words` in which case does not count, with marks."""
    return rf"{_LETTERS_AND_MARKS}{_CONTRACTIONS}?|{digits}|{_SIGNS_AND_SLASHES}|{_BLANKS}"


_GPT4O = _cased_words(_THREE, f"{_CONTRACTIONS}?")
_TABLE = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, _ANY, "[0-9][0-9][0-9]")),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "gpt-2 phi-2 mpt olmo jais jina-es jina-de jina-v1-en roberta-bpe gigachat exaone4 mellum"
    " a.x-4.0 trillion granite-docling": PreTokenizer((_GPT2,)),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": PreTokenizer(
        (_ONE, _GPT2)
    ),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (_words(_THREE),), ignores_merges=True, adds_bos=True
    ),
    "dbrx smaug-bpe glm4 chatglm-bpe": PreTokenizer((_words(_THREE),)),
    "minicpm5": PreTokenizer((_THREE, _words(_ANY)), ignores_merges=True),
    "jais-2": PreTokenizer(
        (
            rf"{_CONTRACTIONS}|{_LETTERS}|{_THREE}|{_SIGNS}|\s*[\r\n]+|"
            + "".join(rf"\s{{{2**power}}}(?!\S)|" for power in range(9, 1, -1))
            + r"\s{1,2}(?!\S)|\s",
        )
    ),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2 bailingmoe"
    " bailingmoe2 llada-moe": PreTokenizer((_words(_ONE),)),
    "qwen35": PreTokenizer(
        (
            rf"{_CONTRACTIONS}|{_LETTERS_AND_MARKS}|{_ONE}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}",
        )
    ),
    "laguna": PreTokenizer((r"[^\n]+|\n+", _words(_ONE))),
    "ufakzeka": PreTokenizer((_words(_ONE, contractions=""),)),
    "seed-coder": PreTokenizer((_words(_ONE, signs=r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    "exaone-moe": PreTokenizer(
        (
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
            rf"|{_ONE}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|{_BLANKS}",
        )
    ),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer((_GPT4O,)),
    "granite-embed-multi-97m": PreTokenizer(
        (_cased_words(_THREE, f"{_CONTRACTIONS}?", r"\p{L}\p{M}"),), ignores_merges=True
    ),
    "tekken": PreTokenizer((_cased_words(_ONE, ""),), ignores_merges=True, adds_bos=True),
    "tiny_aya cohere2moe": PreTokenizer((_THOUSANDS, _uncased_words(_THREE))),
    "youtu": PreTokenizer((_CJK_OF_YOUTU, _uncased_words(_ONE)), ignores_merges=True),
    "kimi-k2": PreTokenizer(
        (
            rf"[{_HAN}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^{_HAN}]]+{_CONTRACTIONS}?"
            rf"|{_THREE}|{_SIGNS}|{_BLANKS}",
        )
    ),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": PreTokenizer((_THREE, _KANA_AND_HAN, _DEEPSEEK_3)),
    "spark2_5": PreTokenizer(
        (
            _ONE,
            _KANA_AND_HAN,
            rf"{_PUNCTUATED}|{_LETTERS_AFTER_SIGN}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "afmoe": PreTokenizer((_THOUSANDS, _CJK_OF_AFMOE, _DEEPSEEK_3)),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, _ONE)),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001\u3002]+",
            r"(?<!\s)\s+\z",
            _HAN_AND_HANGUL,
            _ANY,
        )
    ),
    "poro-chat bloom gpt3-finnish": PreTokenizer((_BLOOM,)),
    "viking": PreTokenizer((_BLOOM, _ONE)),
    "superbpe": PreTokenizer((_ANY, _ASCII_THOUSANDS)),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            r"[\t\n]|    |  ",
            _ONE,
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        adds_bos=True,
    ),
}


def _of_unicode_15(expression: str) -> str:
    """Return the expression with categories as of Unicode 15.1."""
    return re.sub(r"\\p\{[LMNPS]\}", lambda match: f"[{match[0]}&&[^{_UNICODE_16}]]", expression)


PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    name: pre_tokenizer._replace(expressions=tuple(map(_of_unicode_15, pre_tokenizer.expressions)))
    for names, pre_tokenizer in _TABLE.items()
    for name in names.split()
}
