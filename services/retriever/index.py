"""Exact search by cosine similarity over the passages of one collection, in memory.

One thread changes an index; any thread searches it: a search sees one state from start to end.
Knows nothing of where passages are kept.
"""

from collections.abc import Sequence

import numpy as np

from services.retriever.document import Hit, Passage, Vectors

_FIRST_CAPACITY = 256


class Index:
    """Passages and their unit vectors, one row each."""

    def __init__(self, dimensions: int) -> None:
        self._rows: Vectors = np.empty((_FIRST_CAPACITY, dimensions), np.float32)
        self._passages: list[Passage] = []
        # rows in use and their passages: replaced as one, so that readers need no lock
        self._seen: tuple[Vectors, list[Passage]] = (self._rows[:0], self._passages)

    def __len__(self) -> int:
        return len(self._seen[0])

    def replace(self, remove: str, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Drop the passages of document `remove` and add these; `vectors` is (n, dimensions)."""
        if remove:
            self._drop(remove)
        used, total = len(self._passages), len(self._passages) + len(passages)
        if total > len(self._rows):
            grown = np.empty((max(total, 2 * len(self._rows)), self._rows.shape[1]), np.float32)
            grown[:used] = self._rows[:used]
            self._rows = grown
        self._rows[used:total] = vectors
        self._passages.extend(passages)
        self._seen = (self._rows[:total], self._passages)

    def remove(self, document_id: str) -> None:
        """Drop the passages of a document, and give back memory that was theirs."""
        self._drop(document_id)
        self._seen = (self._rows[: len(self._passages)], self._passages)

    def search(self, query: Vectors, top_k: int) -> list[Hit]:
        """Return the `top_k` nearest, best first; equals in the order of their arrival.

        `query` is (dimensions,), of unit length.
        """
        rows, passages = self._seen
        scores = rows @ query
        k = min(top_k, len(scores))
        if k == 0:
            return []
        # all that tie with the k-th are sorted, so that the order of arrival decides
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        near = np.flatnonzero(scores >= least)
        best = near[np.argsort(-scores[near], kind="stable")][:k]
        return [Hit(passages[row], float(scores[row])) for row in best.tolist()]

    def _drop(self, document_id: str) -> None:
        kept = [p.document_id != document_id for p in self._passages]
        self._rows = self._rows[: len(kept)][np.array(kept, bool)]
        self._passages = [p for p, keep in zip(self._passages, kept, strict=True) if keep]
