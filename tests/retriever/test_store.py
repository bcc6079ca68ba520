"""What is written is there after opening again, once and in the right version."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retriever.document import Document, Passage, State, Status
from services.retriever.store import Store, StoreError, Superseded
from tests.retriever.parts import a_document


def passages(of: Document, count: int) -> tuple[list[Passage], np.ndarray]:
    made = [
        Passage(f"{of.document_id}-{i}", of.document_id, of.source, f"text {i}", i, i + 6)
        for i in range(count)
    ]
    return made, np.arange(count * 2, dtype=np.float32).reshape(count, 2)


def test_contents_survive_in_order(tmp_path: Path) -> None:
    """Another process reads the same passages, vectors and states."""
    store, first, second = (
        Store(tmp_path, "e", 2),
        a_document("i1"),
        a_document("i2", source="b.md"),
    )
    store.queue(first)
    store.queue(second)
    assert store.index(second, *passages(second, 1)) == ""
    assert store.index(first, *passages(first, 3)) == ""
    store.close()
    again = Store(tmp_path, "e", 2)
    found = list(again.contents())
    assert [(c, p) for c, p, _ in found] == [
        ("docs", passages(first, 3)[0]),
        ("docs", passages(second, 1)[0]),
    ]
    np.testing.assert_array_equal(found[0][2], passages(first, 3)[1])
    assert again.status("i1") == Status(State.INDEXED, 3, "")
    assert again.status("nobody") is None
    again.close()
    again.close()


def test_indexing_again_replaces_itself(tmp_path: Path) -> None:
    """A task that is delivered twice leaves its passages once."""
    store, one = Store(tmp_path, "e", 2), a_document("i1")
    store.queue(one)
    store.queue(one)
    store.index(one, *passages(one, 3))
    assert store.index(one, *passages(one, 3)) == one.document_id
    assert [len(p) for _, p, _ in store.contents()] == [3]
    store.close()


def test_a_later_version_stays(tmp_path: Path) -> None:
    """The order of queueing decides, not the order of indexing."""
    store, old, new = Store(tmp_path, "e", 2), a_document("i1", "v1"), a_document("i2", "v2")
    store.queue(old)
    store.queue(new)
    store.index(new, *passages(new, 2))
    with pytest.raises(Superseded):
        store.index(old, *passages(old, 5))
    assert [p[0].document_id for _, p, _ in store.contents()] == [new.document_id]
    assert store.status("i1") == Status(State.QUEUED, 0, "")
    store.close()


def test_a_failure_in_the_middle_leaves_the_old_version(tmp_path: Path) -> None:
    """The replacement is all or nothing."""
    store, old, new = Store(tmp_path, "e", 2), a_document("i1", "v1"), a_document("i2", "v2")
    store.queue(old)
    store.index(old, *passages(old, 2))
    store.queue(new)
    made, vectors = passages(new, 3)
    with pytest.raises(ValueError, match="zip"):
        store.index(new, made, vectors[:2])
    assert [p for _, p, _ in store.contents()] == [passages(old, 2)[0]]
    assert [d.ingestion_id for d in store.queued()] == ["i2"]
    store.close()


def test_a_failed_ingestion_says_why_and_success_is_final(tmp_path: Path) -> None:
    """A failure is recorded for what is queued and ignored for what is indexed."""
    store, one, two = Store(tmp_path, "e", 2), a_document("i1"), a_document("i2")
    store.queue(one)
    store.fail("i1", "broken")
    assert store.status("i1") == Status(State.FAILED, 0, "broken")
    store.queue(two)
    store.index(two, *passages(two, 1))
    store.fail("i2", "late")
    assert store.status("i2") == Status(State.INDEXED, 1, "")
    assert store.queued() == []
    store.close()


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    """Vectors of two encoders cannot be compared."""
    Store(tmp_path, "e", 2).close()
    with pytest.raises(StoreError, match="filled by the encoder e, 2 dimensions"):
        Store(tmp_path, "other", 2)


STEPS = st.lists(
    st.tuples(st.sampled_from("qqiiidcr"), st.integers(0, 2), st.integers(0, 11)), max_size=40
)


@settings(deadline=None, max_examples=150)
@given(steps=STEPS)
def test_a_deletion_ends_what_came_before_it_and_nothing_else(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any order of ingestions, indexing, deletions and restarts, beside a plain model."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder, "e", 2)
    queued: list[Document] = []
    withdrawn: set[str] = set()
    indexed: dict[str, int] = {}
    for step, source, number in steps:
        name = f"s{source}"
        if step == "q":
            queued.append(a_document(f"i{len(queued)}", f"v{len(queued)}", name))
            store.queue(queued[-1])
        elif step == "i" and queued:
            place = number % len(queued)
            document = queued[place]
            known = indexed.get(document.source, -1)
            if document.ingestion_id in withdrawn or known > place:
                with pytest.raises(Superseded):
                    store.index(document, *passages(document, 1))
            else:
                store.index(document, *passages(document, 1))
                indexed[document.source] = place
        elif step in "dc":
            gone = {name} if step == "d" else {"s0", "s1", "s2"}
            ended = {
                d.ingestion_id
                for d in queued
                if d.source in gone
                and (status := store.status(d.ingestion_id)) is not None
                and status.state is State.QUEUED
            }
            held = [source for source in gone if indexed.pop(source, None) is not None]
            deleted = store.delete("docs", source=name) if step == "d" else None
            if step == "c":
                assert store.delete_collection("docs") == (len(held) if held or ended else None)
            elif held or ended:
                assert deleted is not None and deleted.was_indexed == bool(held)
            else:
                assert deleted is None
            withdrawn |= ended
        elif step == "r":
            store.close()
            store = Store(folder, "e", 2)
        expected = {queued[place].document_id for place in indexed.values()}
        assert {made[0].document_id for _, made, _ in store.contents()} == expected
    store.close()
