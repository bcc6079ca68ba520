"""Odd strings for comparing tokenizers: the same ones on every machine."""

import random

_PARTS = [
    *("don't", "WE'LL", "i'Ve", "'s", "''", "it\u2019s", "x'S'T"),
    *("Hello", " world", "HTTPServer", "camelCase", "naïve", "Ünïcödé", "ﬁne", "ǅ", "ß"),
    *("0", "12", "123", "1234567", "3.14", "1,000,000", "½", "Ⅷ", "٣٤", "१२३", "²³"),
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\u200b"),
    *("!", "...", "?!", "—", "--", "$", "€5", "#tag", "a_b", "<=>", "`code`", "^~|", "\\", "«»"),
    *(
        "日本語",
        "カタカナ",
        "ひらがな",
        "한국어",
        "中文,",
        "русский",
        "ελληνικά",
        "עברית",
        "العربية",
        "ไทย",
        "हिन्दी",
    ),
    *(
        "😀",
        "👩‍👩‍👧",
        "🇩🇪",
        "👍🏽",
        "☃",
        "\u0301",
        "e\u0301",
        "\ufeff",
        "\u202e",
        "\U0001d518",
        "𐍈",
        "\U000e0041",
    ),
    *("<|im_start|>", "<|endoftext|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<0x41>", "▁"),
    *("\x00", "\x07", "\x1b[0m", "\x7f", "\x85", "\u2028"),
]


def odd_strings(count: int = 2000, seed: int = 0) -> list[str]:
    """Return strings of one to twelve parts, or of characters from all planes."""
    draw = random.Random(seed)
    return [_of_parts(draw) if draw.random() < 0.8 else _of_characters(draw) for _ in range(count)]


def _of_parts(draw: random.Random) -> str:
    return "".join(draw.choice(_PARTS) for _ in range(draw.randint(1, 12)))


def _of_characters(draw: random.Random) -> str:
    spans = [(1, 0x7F), (0x80, 0x24F), (0x370, 0x1FFF), (0x2000, 0x33FF), (0x3400, 0xD7FF)]
    spans += [(0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x10FFFF)]
    return "".join(chr(draw.randint(*draw.choice(spans))) for _ in range(draw.randint(1, 16)))
