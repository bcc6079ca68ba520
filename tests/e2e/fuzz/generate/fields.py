"""The fields of requests: for each, values that a gateway accepts and values at or past an edge."""

from dataclasses import dataclass

from tests.e2e.fuzz.case import LASTING_COLLECTION, Json
from tests.e2e.fuzz.generate.values import CONTROL_TOKENS, Literal

NAN = float("nan")
INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Field:
    """Values of one field; `odd` ones may be accepted or refused, but nothing else."""

    good: tuple[Json, ...]
    odd: tuple[Json, ...] = ()


FLAG = Field((True, False), (0, 1, "true", None, []))
IDS = Field(
    ([], [300], [300, 301, 302]),
    ([0], [2], [-1], [3071], [3072], [2**31], [2**64], [1.0], [True], ["1"], [[1]], 5, "5", None,
     list(range(3072)), [300] * 5000),
)  # fmt: skip
STOP = Field(
    ("a", [".", "e"], ["\n"], "\u6f22", ["<|end|>"]),
    ("", [""], [], ["a"] * 4, ["a"] * 5, ["a"] * 500, "x" * 20_000, [1], [None], [["a"]], {}, True,
     "\ud800", ["\ufffd"], ["\x00"], "\u202e"),
)  # fmt: skip
SAMPLING = {
    "temperature": Field(
        (0, 0.5, 1, 2, 1e-6), (-0.0, -0.1, 2.0001, 5e-324, 1e308, NAN, INFINITY, "1", True, None)
    ),
    "top_p": Field((0.1, 0.9, 1), (0, -1, 1.0001, 1e-300, NAN, "0.5", [])),
    "n": Field((1, 2, 3), (0, -1, 16, 17, 128, 2**31, 2**63, 1.0, 1.5, "2", None, True)),
    "max_tokens": Field(
        (1, 2, 8), (0, -1, 900, 1023, 1024, 2**31, 2**64, 1.0, 2.5, "8", None, True, Literal("1e2"))
    ),
    "stop": STOP,
    "seed": Field((0, 1, 2**31, -1), (2**63 - 1, 2**63, -(2**63) - 1, 2**64, 1.0, 1.5, "1", None)),
    "presence_penalty": Field((-2, 0, 0.5, 2), (-2.01, 2.01, NAN, 10**400, "0", None)),
    "frequency_penalty": Field((-2, 0, 0.5, 2), (-2.01, 2.01, -INFINITY, Literal("1e400"), [])),
    "logit_bias": Field(
        ({}, {"300": 10}, {"300": -100, "301": 100}, {"5": 1.5}),
        ({"300": 101}, {"300": -100.5}, {"300": NAN}, {"300": None}, {"300": "1"}, {"-1": 1},
         {"3071": 1}, {"3072": 1}, {"99999999999999999999": 1}, {"a": 1}, {"": 1}, {" 5": 1},
         {"5.0": 1}, {"\u0665": 1}, {"1_0": 1}, {"+5": 1}, {"05": 1, "5": 2}, [], "x", None,
         {str(i): -100 for i in range(3072)}, {str(i): 1 for i in range(400)}),
    ),
    "top_k": Field((-1, 1, 40), (0, -2, 3072, 5000, 2**31, 2**63, 1.5, "1", None, True)),
    "min_p": Field((0, 0.1, 1), (-0.1, 1.1, NAN, "0", None)),
    "typical_p": Field((0.2, 1), (0, -1, 1.1, 1e-12, NAN, "1")),
    "repetition_penalty": Field((1, 1.2, 0.5), (0, -1, 1e-9, 1e300, NAN, INFINITY, "1")),
    "min_tokens": Field((0, 1, 2), (-1, 8, 9, 1024, 2**31, 2**64, 1.5, "1", None)),
    "stop_token_ids": IDS,
    "allowed_token_ids": IDS,
    "bad_token_ids": IDS,
    "ignore_eos": FLAG,
    "prompt_logprobs": Field((0, 1, 3), (-1, 5, 20, 21, 2**31, True, 1.5, "1", None)),
    "use_beam_search": FLAG,
    "length_penalty": Field((0, 1, -1), (1e300, -1e300, NAN, "1", None)),
    "best_of": Field((1, 2, 4), (0, -1, 16, 17, 64, 2**31, 1.5, "2", None)),
    "priority": Field((0, 1, 100), (-1, 101, -(2**31), 2**63, 1.5, "1", None)),
    "cache": Field(("no-store",), ("no-cache", "", "NO-STORE", 1, None, {}, "\x00")),
    "stream": Field((True, True, False), (1, 0, "true", None, {})),
    "stream_options": Field(
        ({"include_usage": True}, {"include_usage": False}),
        ({}, None, [], {"include_usage": 1}, {"include_usage": None}, {"other": True}, "x"),
    ),
    "user": Field(("someone", ""), (1, None, "x" * 20_000, "\ud800", "\x00", {})),
    "retrieval": Field(
        ({"collection": LASTING_COLLECTION, "top_k": 2}, {"collection": LASTING_COLLECTION}),
        (None, {}, [], "x", {"collection": ""}, {"collection": "fuzz-none"}, {"collection": None},
         {"collection": "\ud800"}, {"collection": "../x"}, {"collection": "a" * 5000},
         {"collection": LASTING_COLLECTION, "top_k": 0}, {"collection": "\x00"},
         {"collection": LASTING_COLLECTION, "top_k": 2**31}, {"collection": [LASTING_COLLECTION]},
         {"collection": LASTING_COLLECTION, "top_k": "4"}, {"collection": "F\u00dcZZ"},
         {"collection": LASTING_COLLECTION, "top_k": 1000}, {"collection": LASTING_COLLECTION,
         "x": 1}),
    ),
    "metadata": Field(({}, {"a": "b"}), (None, [], {"a": 1}, {"a" * 100: "b" * 1000})),
    "": Field((), (1, None)),
    "frobnicate": Field((), (True, None)),
    "\ud800": Field((), (1,)),
    "max_tokens\x00": Field((), (1,)),
    "MAX_TOKENS": Field((), (1,)),
}  # fmt: skip
CHAT_ONLY = {
    "logprobs": FLAG,
    "top_logprobs": Field((0, 2, 5), (20, 21, -1, 2**31, 1.5, "1", None, True)),
    "max_completion_tokens": Field((1, 4), (0, -1, 1024, 2**40, "4", None)),
    "response_format": Field(
        ({"type": "text"},), ({"type": "json_object"}, {"type": "json_schema"}, {}, "text", None)
    ),
    "tools": Field((), ([], None, {}, [{"type": "function", "function": {"name": "f"}}])),
    "tool_choice": Field((), ("none", "auto", {}, None)),
    "reasoning_effort": Field((), ("low", "none", 1, None)),
    "modalities": Field((), (["text"], ["audio"], [], None)),
    "store": Field((False,), (True, None, 1)),
    "service_tier": Field((), ("auto", "default", 1, None)),
    "parallel_tool_calls": FLAG,
    "add_generation_prompt": FLAG,
    "continue_final_message": FLAG,
    "chat_template": Field((), ("{{ 1 }}", "", None)),
}
COMPLETION_ONLY = {
    "logprobs": Field((0, 1, 5), (6, 20, 21, -1, True, False, 1.5, "1", None)),
    "echo": FLAG,
    "suffix": Field((), ("x", "", None, 1)),
    "add_special_tokens": FLAG,
}
ROLES = Field(
    ("system", "user", "assistant"),
    (
        "tool",
        "function",
        "developer",
        "wizard",
        "",
        "User",
        "user ",
        None,
        1,
        "\ud800",
        [],
        "<|user|>",
    ),
)
CONTENTS = Field(
    ("Hello! Who are you?", "When was it built?", "\u6f22\u5b57", [{"type": "text", "text": "Hi"}]),
    ("", " ", None, [], {}, 1, True, [""], [{}], ["Hi"], [{"type": "text"}], "word " * 5000,
     [{"type": "text", "text": None}], [{"type": "image_url", "image_url": {"url": "x"}}],
     [{"type": "text", "text": "a"}] * 50, "\ud800", "\x00", "\ufffe", "\u202e", "\u0301" * 2000,
     *CONTROL_TOKENS, *("".join(CONTROL_TOKENS),)),
)  # fmt: skip
PROMPTS = Field(
    ("The harbour", ["The harbour", "A garden"], [40, 50, 60], [[40, 50], [60]], ["A"], "\u6f22"),
    ("", [], [""], ["a", ""], [[]], [[], [1]], [[1], []], [1, "a"], ["a", 1], ["a", None], {}, None,
     5, True, [True], [1.0], [1.5], [-1], [3071], [3072], [2**31], [2**63], [2**64], [0], [1, 2, 3],
     [[1], [3072]], [[[1]]], ["a"] * 20, ["a"] * 200, ["a"] * 3000, [300] * 1023, [300] * 1024,
     [300] * 1025, [300] * 50_000, "word " * 5000, "\ud800", "\x00", "a\x00b", "\ufdd0",
     "\U0010ffff", "\u202e\u2066", *CONTROL_TOKENS),
)  # fmt: skip
EMBEDDED = Field(
    ("A lighthouse", ["A lighthouse", "a bakery"], "\u6f22\u5b57", ["\u05e9", "x", "y"]),
    ("", [], [""], ["a", ""], [1, 2, 3], [[1, 2], [3]], [30_000], [30_522], [-1], None, 5, {},
    [None],
     [[]], ["a"] * 100, ["a"] * 2048, ["a"] * 2049, "word " * 300, "word " * 3000, "\ud800", "\x00",
     "\ufdd0", " ", "\u0301" * 500, "[CLS] [SEP] [MASK]", ["word " * 600, "b"], [True], [1.5]),
)  # fmt: skip
EMBEDDING_ONLY = {
    "encoding_format": Field(("float", "base64"), ("hex", "", None, 1, [])),
    "dimensions": Field((384,), (0, -1, 1, 383, 385, 2**31, 2**64, 1.5, "384", None)),
    "user": SAMPLING["user"],
    "": SAMPLING[""],
    "frobnicate": SAMPLING["frobnicate"],
}
