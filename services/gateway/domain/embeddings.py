"""What the gateway asks of the encoder and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EmbeddingInputs:
    """Texts, or ids of the encoder's tokens where the caller tokenized; never both.

    Of one over `max_tokens` (0: what the encoder reads) the `truncation` end is left out; without,
    it is refused.
    """

    texts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    truncation: Literal["start", "end"] | None = None
    max_tokens: int = 0

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of unit length, the tokens that were read, and those that were left out."""

    vectors: Sequence[Sequence[float]]
    num_tokens: int
    num_truncated: int
