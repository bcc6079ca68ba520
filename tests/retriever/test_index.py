"""Exact search, against the obvious way of doing it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.document import Passage
from services.retriever.index import Index


def passages(document_id: str, count: int) -> list[Passage]:
    return [Passage(f"{document_id}-{i}", document_id, "s", "t", 0, 1) for i in range(count)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 200)), max_size=12), st.integers(1, 50))
def test_search_is_a_full_sort_after_any_replacements(
    steps: list[tuple[int, int]], top_k: int
) -> None:
    """Whatever was added and replaced, the best come first and ties in order of arrival."""
    rng = np.random.default_rng(7)
    index, shelf = Index(3), dict[str, list[tuple[str, np.ndarray]]]()
    for document, count in steps:
        name = f"d{document}"
        vectors = rng.integers(-2, 3, (count, 3)).astype(np.float32)
        index.replace(name if name in shelf else "", passages(name, count), vectors)
        shelf.pop(name, None)
        shelf[name] = [(f"{name}-{i}", vector) for i, vector in enumerate(vectors)]
    query = np.array([1, 2, -1], np.float32)
    rows = [row for document in shelf.values() for row in document]
    expected = sorted(rows, key=lambda row: -float(row[1] @ query))[:top_k]
    assert [hit.passage.id for hit in index.search(query, top_k)] == [row[0] for row in expected]
    assert len(index) == len(rows)


def test_a_score_is_the_cosine() -> None:
    """Unit vectors give one for the same and zero for unrelated."""
    index = Index(2)
    index.replace("", passages("d", 2), np.eye(2, dtype=np.float32))
    hits = index.search(np.array([0, 1], np.float32), 5)
    assert [(hit.passage.id, hit.score) for hit in hits] == [("d-1", 1.0), ("d-0", 0.0)]
