"""What single tokens add to a text, asked of the tokenizer once per token."""

from collections.abc import Iterable, Mapping, Sequence

from mesh.context import RequestContext
from services.gateway.domain.generation import Model, TokenPiece
from services.gateway.domain.ports import Tokenizer


class TokenText:
    """Remembers each token that was asked for; bounded by the model's vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._revision = ""
        self._pieces: dict[int, TokenPiece] = {}

    async def pieces(
        self, model: Model, token_ids: Iterable[int], context: RequestContext
    ) -> Mapping[int, TokenPiece]:
        """Return what each token adds to a text by itself, by id; raises MeshError."""
        if model.revision != self._revision:
            self._revision, self._pieces = model.revision, {}
        known = self._pieces
        unknown = sorted(set(token_ids) - known.keys())
        if unknown:
            described = await self._tokenizer.describe_tokens(unknown, context)
            known.update(zip(unknown, described, strict=True))
        return known

    async def within(
        self, token_ids: Sequence[int], text: str, context: RequestContext
    ) -> list[TokenPiece]:
        """Return what the tokens of a prompt add to its text, and where; raises MeshError."""
        return await self._tokenizer.describe_tokens(token_ids, context, text)
