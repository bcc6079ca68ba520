"""What a GGUF file says of its vocabulary to more than one service. Knows no tokenizer.

Files are silent or wrong about some control tokens, which then go by their names, as in llama.cpp
(llama-vocab.cpp), with which files are made and tried. Not followed: that a name such as `</s>`
ends a sequence whatever the file takes it for (it is a piece of HTML in Gemma's vocabularies), and
that a `gpt2` vocabulary without an end has it at Falcon's, 11.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.gguf import GGUFError

TOKENS = "tokenizer.ggml.tokens"
TOKEN_TYPES = "tokenizer.ggml.token_type"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# what every SentencePiece vocabulary begins with, where the file does not say
_LLAMA_IDS = {"unknown": 0, "bos": 1, "eos": 2}
# entries whose token ends a sequence: of the text, of a turn, of a message to a tool
_ENDS = ("eos", "eot", "eom")
# tokens that end a sequence by their name, whatever their type
_END_NAMES = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
        "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_utterance>",
        "<turn|>", "<|tool_response>", "<\uff5cend▁of▁sentence\uff5c>", "[e~[",
    }
)  # fmt: skip
# the same of control tokens: text may spell these
_CONTROL_END_NAMES = frozenset({"</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"})
# where a vocabulary has all of these, a message of several ends with this one: it is no end then
_MESSAGE_ENDS = (
    (("<|return|>", "<|call|>"), "<|end|>"),
    (("<|call|>", "<|flush|>"), "<|end|>"),
    (("<|calls|>", "<|flush|>"), "<|end|>"),
    (("<|tool_response>",), "</s>"),
)
# the markers of filling in the middle after which a model goes on with another text, by entry
_FILL_ENDS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>"),
    "fim_sep": ("<|file_sep|>",),
}
_CONTROL_FILL_ENDS = {"fim_pad": ("<PAD>", "[PAD]"), "fim_rep": ("<REPO>", "<reponame>")}


class GGUFVocabulary:
    """Tokens by their id, their types, and the special ones among them.

    In `types` what ends a sequence by its name is a control token. `ids` lacks empty tokens, and
    has the last of equal ones. Raises GGUFError, which names the entry at fault.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.is_sentence_piece = metadata.get("tokenizer.ggml.model") == "llama"
        self.tokens = _tokens(metadata)
        self.ids = {token: token_id for token_id, token in enumerate(self.tokens) if token}
        self.types = _types(metadata, len(self.tokens))
        self._message_ends: set[str] = set()
        self._end_names = self._named_ends()
        for name in self._end_names:
            self.types[self.ids[name]] = CONTROL

    def token_id(self, kind: str) -> int | None:
        """Return the id of the file's `bos`, `eos`, `unknown` or the like, None where it has none.

        Raises GGUFError for an id that is not one of the vocabulary's.
        """
        entry = f"tokenizer.ggml.{kind}_token_id"
        token_id = self._metadata.get(entry)
        if token_id is None:
            token_id = _LLAMA_IDS.get(kind) if self.is_sentence_piece else None
            return token_id if token_id is not None and token_id < len(self.tokens) else None
        if type(token_id) is not int or not 0 <= token_id < len(self.tokens):
            raise GGUFError(entry, f"is not a token: {token_id!r}")
        return token_id

    def end_token_ids(self) -> tuple[int, ...]:
        """Return the ids after which a sequence is over, each once; the end of text is first."""
        own = [self.token_id(kind) for kind in _ENDS]
        named = sorted(self.ids[name] for name in self._end_names)
        fill = [self._fill_end(kind) for kind in _FILL_ENDS]
        ends = dict.fromkeys(each for each in (*own, *named, *fill) if each is not None)
        return tuple(each for each in ends if self.tokens[each] not in self._message_ends)

    def _named_ends(self) -> set[str]:
        names = {name for name in _END_NAMES if name in self.ids}
        names |= {name for name in _CONTROL_END_NAMES if self._is_control(name)}
        self._message_ends = {
            end for others, end in _MESSAGE_ENDS if self.ids.keys() >= {*others, end}
        }
        return names - self._message_ends

    def _fill_end(self, kind: str) -> int | None:
        token_id = self.token_id(kind)
        if token_id is not None:
            return token_id
        names = [name for name in _FILL_ENDS[kind] if name in self.ids]
        names += filter(self._is_control, _CONTROL_FILL_ENDS.get(kind, ()))
        return self.ids[names[0]] if names else None

    def _is_control(self, name: str) -> bool:
        return name in self.ids and self.types[self.ids[name]] == CONTROL


def end_token_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids after which a sequence is over, none for a file without a vocabulary.

    Each once, the file's end of text first. Raises GGUFError naming the entry at fault.
    """
    return GGUFVocabulary(metadata).end_token_ids() if TOKENS in metadata else ()


def _tokens(metadata: Mapping[str, Any]) -> Sequence[str]:
    tokens = metadata.get(TOKENS)
    if not _is_list(tokens, str) or not tokens:
        raise GGUFError(TOKENS, "must be a list of texts, and not empty")
    texts: Sequence[str] = tokens
    return texts


def _types(metadata: Mapping[str, Any], num_tokens: int) -> list[int]:
    types = metadata.get(TOKEN_TYPES, [NORMAL] * num_tokens)
    if not _is_list(types, int) or len(types) != num_tokens:
        raise GGUFError(TOKEN_TYPES, f"must be a list of {num_tokens} integers")
    return list(types)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)
