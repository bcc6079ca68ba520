"""The text of single tokens, asked of the tokenizer once per token."""

from collections.abc import Iterable, Mapping

from mesh.context import RequestContext
from services.gateway.domain.generation import Model
from services.gateway.domain.ports import Tokenizer


class TokenText:
    """Remembers the text of each token that was asked for; bounded by the model's vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._revision = ""
        self._texts: dict[int, str] = {}

    async def texts(
        self, model: Model, token_ids: Iterable[int], context: RequestContext
    ) -> Mapping[int, str]:
        """Return what each token adds to a text, by id; raises MeshError."""
        if model.revision != self._revision:
            self._revision, self._texts = model.revision, {}
        known = self._texts
        unknown = sorted(set(token_ids) - known.keys())
        if unknown:
            # a token may lose its space at the start of a text, so it is read behind itself
            pairs = [ids for token_id in unknown for ids in ((token_id,), (token_id, token_id))]
            texts = await self._tokenizer.decode(pairs, context)
            triples = zip(unknown, texts[::2], texts[1::2], strict=True)
            known.update({token_id: both[len(one) :] for token_id, one, both in triples})
        return known
