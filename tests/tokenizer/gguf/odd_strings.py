# ruff: noqa: RUF001 - the odd characters are meant
"""Strings in which tokenizers differ: borders of every kind, rare characters, control tokens."""

import random

_LETTERS = [
    *(
        "Hello",
        "world",
        "HTTPServer",
        "camelCase",
        "iOS",
        "XMLa",
        "naïve",
        "Ünïcödé",
        "ÉCOLEa",
        "éÉa",
    ),
    *("ﬁne", "ǅa", "ß", "ŉ", "ʰx", "ªº", "Kſ", "русскийМИР", "ΑΒΓδε", "Ꭰꭰ", "Աբ", "Ⴀⴀ", "İı"),
    *(
        "日本語",
        "カタカナ",
        "ひらがな",
        "한국어",
        "ㄱㅏ",
        "ㄅㄆ",
        "中文",
        "豈",
        "𠀀",
        "ｶﾀｶﾅ",
        "々〆",
    ),
    *("עברית", "שָׁלוֹם", "العربية", "مُحَمَّد", "ไทย", "ที่", "ລາວ", "ខ្មែរ", "မြန်", "हिन्दी", "क्षि", "தமிழ்"),
    *("𝔘𝔫", "𐍈", "𞤀𞤢", "ꙀꙁꜢ", "\u1c89\u1c8a", "\U00010d4a", "\U00016100"),
]
_NUMBERS = [
    *("0", "12", "123", "1234", "12345", "123456", "1234567", "20240131", "9" * 31, "007"),
    *("3.14", "1,000,000", "1e-9", "0x1F", "½", "Ⅷ", "³²¹", "٣٤٥٦", "१२3456७", "12٣45678", "𝟘𝟙𝟚𝟛"),
    *("\U00010d40", "\U0001ccf0\U0001ccf1"),
]
_BLANKS = [
    *(" ", " ", " ", "  ", "   ", " " * 7, " " * 13, " " * 40, "\t", "\t\t", " \t ", "\t \t"),
    *(
        "\n",
        "\n\n",
        "\n\n\n",
        "\r\n",
        "\r",
        "\r\n\r\n",
        " \n ",
        "  \n\n  ",
        "\n\t",
        "\n  x",
        "\x0b",
        "\x0c",
    ),
    *("\u00a0", "\u3000", "\u2003", "\u2003 ", "\u0085", "\u2028", "\u1680", "\u202f", "\u200b"),
]
_SIGNS = [
    *("don't", "WE'LL", "i'Ve", "'s", "'S'T", "''", "it\u2019s", "x'm'D", "'re'RE", "é'll", "'ſ"),
    *("a's", "!", "...", "?!", "—", "--", "$", "€5", "#tag", "a_b", "<=>", "`code`", "^~|", "\\"),
    *("/", "//", "a/b", "https://x.y/z?q=1&r", "!/\n", "/\n/", "(a)", "[b]", "{c}", "<d>", ".e"),
    *("。", "、", "：；，", "！？", "…", "‘q’", "“Q”", "︰﹏", "・", "。\n", "।", "؟،", "۔", "|x|"),
    *("😀", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "☃\ufe0f", "\u0301", "e\u0301"),
    *("n\u0303o", "\u0301\u0302", "1\u20e3", "«»", "§©", ",F", "'ſa", "\ufffd"),
    *("\ufeff", "\u202e", "\U000e0041", "\x00", "\x07", "\x1b[0m", "\x1c", "\x7f", "\ue000"),
    *("\u0897", "\u1b4e", "\u2427", "\U0001cc00", "\U0001fae9", "\U00010efc"),
]  # fmt: skip
_TOKENS = [
    *(
        "<|im_start|>",
        "<|endoftext|>",
        "<|im_end|>",
        "<s>",
        "</s>",
        "<unk>",
        "<0x41>",
        "▁",
        "<turn>",
    ),
    *("<tool>", "<sentinel:12>", "IMGIMGABZ", "IMGIMGZ", "▁▁the"),
]
_KINDS = (_LETTERS, _NUMBERS, _BLANKS, _SIGNS, _TOKENS)
_PLANES = (
    *(
        (1, 0x7F),
        (0x80, 0x24F),
        (0x250, 0x52F),
        (0x530, 0x1FFF),
        (0x2000, 0x2BFF),
        (0x2C00, 0x33FF),
    ),
    *((0x3400, 0xA000), (0xA000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x11FFF), (0x12000, 0x1FFFF)),
    *((0x20000, 0x3FFFF), (0xE0000, 0xE01EF), (0x40000, 0x10FFFF)),
)


def odd_strings(count: int = 2000, seed: int = 0) -> list[str]:
    """Return strings of one to twelve parts, of characters from all planes, or long runs."""
    draw = random.Random(seed)
    return [_string(draw) for _ in range(count)]


def few_letter_strings(count: int = 2000, seed: int = 0) -> list[str]:
    """Return strings of the letters of random vocabularies, with a few others between."""
    draw = random.Random(seed)
    parts = [*" ab-"] * 6 + ["▁", "\n", "\n\n\n\n", "é", "😀", "<tool>", "<s>", "<unk>", "<0x41>"]
    parts += [" " * 9, "a" * 30, "-" * 9]
    return ["".join(draw.choices(parts, k=draw.randint(1, 40))) for _ in range(count)]


def _string(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.8:
        parts = (draw.choice(draw.choice(_KINDS)) for _ in range(draw.randint(1, 12)))
        return "".join(parts)
    if kind < 0.99:
        places = (draw.choice(_PLANES) for _ in range(draw.randint(1, 16)))
        return "".join(chr(draw.randint(*place)) for place in places)
    run = draw.choice([" ", "\n", "7", "a", "é", "-", "▁"]) * draw.randint(30, 1200)
    return draw.choice(["", "x", "\n", "1"]) + run + draw.choice(["", "x", "\n", "1"])
