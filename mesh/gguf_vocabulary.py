"""What a GGUF file says of its vocabulary to more than one service. Knows no tokenizer."""

from collections.abc import Mapping
from typing import Any

from mesh.gguf import GGUFError

TOKENS = "tokenizer.ggml.tokens"
TOKEN_TYPES = "tokenizer.ggml.token_type"
CONTROL, USER_DEFINED = 3, 4
# entries whose token ends a sequence: of the text, of a turn, of a message to a tool
_ENDS = ("eos", "eot", "eom")
# control tokens that end a sequence by their name, where the file's entries leave them out:
# llama.cpp takes them so (llama-vocab.cpp)
_END_NAMES = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
        "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
        "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    }
)  # fmt: skip
# where a vocabulary has all of these, a message of several ends with this one: it is no end then
_MESSAGE_ENDS = ((("<|return|>", "<|call|>"), "<|end|>"), (("<|calls|>", "<|flush|>"), "<|end|>"))


def end_token_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids after which a sequence is over, the file's end of text first.

    Raises GGUFError for an id that is not one of the vocabulary's.
    """
    tokens, types = metadata.get(TOKENS, []), metadata.get(TOKEN_TYPES, [])
    ids: dict[int, None] = {}
    for name in _ENDS:
        token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is None:
            continue
        if type(token_id) is not int or not 0 <= token_id < max(len(tokens), 1):
            raise GGUFError(f"tokenizer.ggml.{name}_token_id", f"is not a token: {token_id!r}")
        ids[token_id] = None
    special = {
        token: token_id
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == CONTROL
    }
    named = {token for token in _END_NAMES if token in special}
    for others, end in _MESSAGE_ENDS:
        if named.issuperset(others):
            named.discard(end)
    return tuple(ids | dict.fromkeys(sorted(special[token] for token in named)))
