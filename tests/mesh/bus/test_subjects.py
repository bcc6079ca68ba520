"""Names on the bus."""

from mesh.bus import subjects


def test_subjects_are_apart() -> None:
    """Two gateways or replicas never share a subject."""
    built = [
        subjects.commands("a"),
        subjects.commands("b"),
        subjects.frames("a"),
        subjects.undelivered("a", "b"),
        subjects.undelivered("b", "a"),
        subjects.ANNOUNCE,
        subjects.HELLO,
        subjects.INGEST,
    ]
    assert len(set(built)) == len(built)
