"""What callers give the encoder: texts or ids to embed, and queries of any length."""

from collections.abc import Sequence
from typing import NamedTuple

from mesh.errors import invalid
from mesh.pb import retriever_pb2 as pb
from services.retriever.encoder_tokenizer import EncoderTokenizer

MAX_TEXTS = 2048
# a long query is looked at in windows, half of them from its start and half from its end, where
# people put what they ask: one encoding each
MAX_WINDOWS = 32
OVERLAP_TOKENS = 32
# of each end of a query; more than its windows read in any script
_END_CHARACTERS = 32_768


class EmbeddingInputs(NamedTuple):
    """Sequences that the encoder reads whole, and how many tokens were left out."""

    sequences: list[list[int]]
    num_truncated: int


def embedding_inputs(tokenizer: EncoderTokenizer, request: pb.EmbedRequest) -> EmbeddingInputs:
    """Return what a request asks to embed; raise INVALID_ARGUMENT that names the input."""
    field, sequences = _sequences(tokenizer, request)
    limit = _limit(tokenizer, request)
    truncates = request.truncation != pb.TRUNCATION_UNSPECIFIED
    if not truncates:
        for number, sequence in enumerate(sequences):
            _check_length(f"{field}[{number}]", sequence, tokenizer.limit)
    keep_end = request.truncation == pb.TRUNCATION_START
    cut = [tokenizer.cut(sequence, limit, keep_end=keep_end) for sequence in sequences]
    return EmbeddingInputs(cut, sum(map(len, sequences)) - sum(map(len, cut)))


def query_windows(tokenizer: EncoderTokenizer, query: str) -> list[list[int]]:
    """Return a query in windows that the encoder reads whole, at most MAX_WINDOWS.

    Of a longer one the middle is left out.
    """
    if len(query) <= 2 * _END_CHARACTERS:
        (ids,) = tokenizer.encode([query])
        windows = tokenizer.windows(ids, OVERLAP_TOKENS)
        if len(windows) <= MAX_WINDOWS:
            return windows
        return windows[: MAX_WINDOWS // 2] + windows[-MAX_WINDOWS // 2 :]
    ends = tokenizer.encode([query[:_END_CHARACTERS], query[-_END_CHARACTERS:]])
    first, last = (tokenizer.windows(ids, OVERLAP_TOKENS) for ids in ends)
    return first[: MAX_WINDOWS // 2] + last[-MAX_WINDOWS // 2 :]


def _sequences(
    tokenizer: EncoderTokenizer, request: pb.EmbedRequest
) -> tuple[str, list[list[int]]]:
    if request.texts and request.token_ids:
        raise invalid("token_ids", "token_ids stand in place of texts, not beside them.")
    field, num_inputs = ("token_ids", len(request.token_ids))
    if not request.token_ids:
        field, num_inputs = ("texts", len(request.texts))
    if not 1 <= num_inputs <= MAX_TEXTS:
        raise invalid(field, f"{field} holds {num_inputs}; it must be 1 to {MAX_TEXTS}.")
    if field == "texts":
        for number, text in enumerate(request.texts):
            if not text.strip():
                raise invalid(f"texts[{number}]", f"texts[{number}] is empty.")
        return field, tokenizer.encode(list(request.texts))
    for number, tokens in enumerate(request.token_ids):
        _check_ids(f"token_ids[{number}]", tokens.ids, tokenizer.vocab_size)
    return field, [tokenizer.framed(tokens.ids) for tokens in request.token_ids]


def _check_ids(field: str, ids: Sequence[int], vocab_size: int) -> None:
    if not ids:
        raise invalid(field, f"{field} is empty.")
    if max(ids) >= vocab_size:
        raise invalid(
            field,
            f"{field} holds {max(ids)}, but the encoder's vocabulary has {vocab_size} tokens.",
        )


def _check_length(field: str, sequence: Sequence[int], limit: int) -> None:
    if len(sequence) > limit:
        raise invalid(
            field,
            f"{field} has {len(sequence)} tokens; the encoder reads at most {limit}. Shorten it, "
            "or ask for truncation.",
        )


def _limit(tokenizer: EncoderTokenizer, request: pb.EmbedRequest) -> int:
    if not request.max_tokens:
        return tokenizer.limit
    least = tokenizer.limit - tokenizer.max_content + 1
    if not least <= request.max_tokens <= tokenizer.limit:
        raise invalid(
            "max_tokens",
            f"max_tokens is {request.max_tokens}; it must be {least} to {tokenizer.limit}.",
        )
    return request.max_tokens
