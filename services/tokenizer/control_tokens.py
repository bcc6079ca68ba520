"""Control tokens of a chat: the template's own become tokens, their spellings in content stay text.

Content is guarded before a template renders it: a noncharacter breaks each spelling of a control
token. What the rendered text still spells is the template's. It is encoded by a second tokenizer
that knows the control tokens by other contents, which no text can hold, and by the same rules.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from services.tokenizer.checkpoint import CheckpointError

# noncharacters are for internal use (Unicode 23.7); those of one block spell tokens, others guard
_DIGITS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_GUARDS = [chr(plane * 0x10000 + low) for plane in range(17) for low in (0xFFFE, 0xFFFF)]
_PRIVATE_USE = range(0xE000, 0xF900)
# that many digits of 5 bits in the secret part: nobody writes a stand-in by chance or on purpose
_SECRET_DIGITS = 16
_INDEX_DIGITS = 4
_WORD = re.compile(r"\w")


class ControlToken(NamedTuple):
    """An added token of tokenizer.json; the flags are the library's (`AddedToken`)."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool

    @property
    def is_vocabulary(self) -> bool:
        """Blanks that are not special (Gemma, GPT-NeoX): they control nothing, in content too."""
        return not self.special and not self.content.strip()

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "ControlToken":
        """Return it from its entry in tokenizer.json."""
        return cls(**{name: entry[name] for name in cls._fields})


class ControlTokens:
    """The control tokens of one vocabulary. Thread-safe: nothing changes after construction."""

    def __init__(self, tokenizer_json: str) -> None:
        data = json.loads(tokenizer_json)
        added = [ControlToken.of(entry) for entry in data["added_tokens"]]
        tokens = [token for token in added if token.content and not token.is_vocabulary]
        stand_ins = _stand_ins(len(tokens))
        self._stand_ins = {t.content: s for t, s in zip(tokens, stand_ins, strict=True)}
        self._single_words = {token.content for token in tokens if token.single_word}
        self._single_characters = {t.content for t in tokens if len(t.content) == 1}
        self._special = _longest(t.content for t in tokens if t.special)
        # in the library's order: raw text first, what is left of it in its normal form
        self._passes = [
            _longest(t.content for t in added if t.content and t.normalized is normalized)
            for normalized in (False, True)
        ]
        self._beginnings = _beginnings(token.content for token in tokens)
        self._heads = {t.content[i:] for t in tokens for i in range(1, len(t.content))}
        self._tails = {t.content[:i] for t in tokens for i in range(1, len(t.content))}
        self._longest = max((len(token.content) for token in tokens), default=0)
        self._tokenizer = _with_stand_ins(data, tokens, self._stand_ins)
        self._ids = self._own_ids([token for token in added if token.content])

    def guard(self, texts: Sequence[str]) -> "Guard":
        """Return what guards these texts of a caller."""
        held = "".join(texts)
        candidates = chain(_GUARDS, map(chr, _PRIVATE_USE))
        return Guard(self, next(mark for mark in candidates if mark not in held))

    def encode(self, text: str, mark: str) -> list[int]:
        """Return the ids of a rendered text in which `mark` guards the content."""
        for pattern in self._passes:
            if pattern is not None:
                text = pattern.sub(lambda match: self._replaced(match, mark), text)
        (encoding,) = self._tokenizer.encode_batch_fast(
            [text.replace(mark, "")], add_special_tokens=False
        )
        return [self._ids.get(token_id, token_id) for token_id in encoding.ids]

    def shown(self, text: str) -> str:
        """Return a text as its tokens show it: special ones show nothing."""
        return text if self._special is None else self._special.sub("", text)

    def guarded(self, text: str, mark: str) -> str:
        """Return content in which no control token is spelled, alone or with what is beside it."""
        if self._beginnings is None:
            return text
        text = self._beginnings.sub(lambda match: match[0] + mark, text)
        stripped = text.strip()
        if not stripped:
            return text
        # never outside of blanks, which a template may trim
        start = text.index(stripped[0])
        end = start + len(stripped)
        reach = range(1, self._longest)
        if any(stripped[:n] in self._heads for n in reach):
            stripped = mark + stripped
        if any(stripped[-n:] in self._tails for n in reach):
            stripped += mark
        return text[:start] + stripped + text[end:]

    def _replaced(self, match: re.Match[str], mark: str) -> str:
        content, text, end = match[0], match.string, match.end()
        stand_in = self._stand_ins.get(content)
        if stand_in is None:
            return content
        if content in self._single_characters and text[end : end + 1] == mark:
            return content
        if content in self._single_words and (
            _WORD.match(text[match.start() - 1 : match.start()]) or _WORD.match(text, end)
        ):
            return content
        return stand_in

    def _own_ids(self, added: Sequence[ControlToken]) -> dict[int, int]:
        """Return the id of each added token by its id here; raise CheckpointError."""
        ids = {}
        for token in added:
            content = self._stand_ins.get(token.content, token.content)
            (encoding,) = self._tokenizer.encode_batch_fast([content], add_special_tokens=False)
            if len(encoding.ids) != 1:
                raise CheckpointError(f"tokenizer.json: {token.content!r} cannot stand alone")
            ids[encoding.ids[0]] = token.id
        return ids


class Guard(NamedTuple):
    """Guards the content of one chat by a character that the content does not hold."""

    tokens: ControlTokens
    mark: str

    def __call__(self, text: str) -> str:
        """Return a text of the caller that spells no control token."""
        return self.tokens.guarded(text, self.mark)


def _stand_ins(count: int) -> Iterator[str]:
    """Yield contents that no text holds, all of one length."""
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_DIGITS))
    for number in range(count):
        digits = (_DIGITS[(number >> 5 * i) & 31] for i in range(_INDEX_DIGITS))
        yield secret + "".join(digits)


def _with_stand_ins(
    data: dict[str, Any], tokens: Sequence[ControlToken], stand_ins: dict[str, str]
) -> Tokenizer:
    """Return the tokenizer that knows control tokens by their stand-ins alone."""
    kept = [entry for entry in data["added_tokens"] if entry["content"] not in stand_ins]
    changed = data | {
        "model": _without_names(data["model"], stand_ins),
        "added_tokens": kept,
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    try:
        tokenizer = _tokenizer(changed)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"tokenizer.json cannot be used: {error}") from error
    tokenizer.add_tokens([_known_as(stand_ins[token.content], token) for token in tokens])
    return tokenizer


def _tokenizer(data: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer; large merges go by the library's own types, in half the time."""
    model = data["model"]
    pairs = model.get("merges")
    if model.get("type") != "BPE" or not pairs or isinstance(pairs[0], str):
        return Tokenizer.from_str(json.dumps(data))
    empty = data | {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(empty))
    options = {name: value for name, value in model.items() if name != "type" and value is not None}
    tokenizer.model = BPE(**options | {"merges": [(left, right) for left, right in pairs]})
    for entry in data["added_tokens"]:
        flags = {name: value for name, value in entry.items() if name not in ("id", "content")}
        tokenizer.add_tokens([AddedToken(entry["content"], **flags)])
    return tokenizer


def _without_names(model: dict[str, Any], stand_ins: dict[str, str]) -> dict[str, Any]:
    """Return the model with stand-ins in its vocabulary: some find whole words there.

    A piece that merges make, or one of its alphabet, is a word of the model's own and stays.
    """
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict):
        return model | {"vocab": [[stand_ins.get(p, p), score] for p, score in vocabulary]}
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", ()))
    merged = {piece for left, right in pairs for piece in (left, right, left + right)}
    names = {name: s for name, s in stand_ins.items() if name not in merged and len(name) > 1}
    renamed = {names.get(piece, piece): token_id for piece, token_id in vocabulary.items()}
    model = model | {"vocab": renamed}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return model


def _known_as(stand_in: str, token: ControlToken) -> AddedToken:
    return AddedToken(
        stand_in,
        # decided on the real content, whose neighbours and normal form are others
        single_word=False,
        normalized=False,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        special=token.special,
    )


def _longest(contents: Iterable[str]) -> "re.Pattern[str] | None":
    """Return a pattern of the longest of these at the first place where one is."""
    trie = _trie(contents)
    return re.compile(_pattern(trie)) if trie else None


def _beginnings(contents: Iterable[str]) -> "re.Pattern[str] | None":
    """Return a pattern of the first character of each of these, wherever one is."""
    trie = _trie(contents)
    if not trie:
        return None
    parts = [re.escape(char) + f"(?={_pattern(rest)})" for char, rest in sorted(trie.items())]
    return re.compile("|".join(parts))


_END = ""


def _trie(contents: Iterable[str]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for content in contents:
        node = root
        for char in content:
            node = node.setdefault(char, {})
        node[_END] = {}
    return root


def _pattern(node: dict[str, Any]) -> str:
    """Return the pattern of a trie, longest first: each character is looked at once."""
    chain = ""
    while len(node) == 1 and _END not in node:
        ((char, node),) = node.items()
        chain += re.escape(char)
    branches = [
        re.escape(char) + _pattern(rest) for char, rest in sorted(node.items()) if char != _END
    ]
    if not branches:
        return chain
    return f"{chain}(?:{'|'.join(branches)}){'?' if _END in node else ''}"
