"""Cases come from their seed and number alone, and have the promised mix."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.fuzz.case import LASTING_COLLECTION
from tests.e2e.fuzz.generate.cases import SHARES, case
from tests.e2e.stack import ROOT

MOST_BYTES = 10_000_000
MANY = range(1500)


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_case_is_its_seed_and_number(seed: int, number: int) -> None:
    """Equal arguments give equal bytes, of a bounded size."""
    made = case(seed, number)
    assert made == case(seed, number)
    assert sum(map(len, made.parts)) <= MOST_BYTES


def test_another_process_makes_the_same_case() -> None:
    """No case depends on the hashes of a process."""
    code = "from tests.e2e.fuzz.generate.cases import case; print([case(5, n) for n in range(200)])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1


def test_every_kind_occurs_and_much_is_nearly_valid() -> None:
    """A run meets all kinds; over a quarter of its bodies are requests with a field changed."""
    made = [case(3, number) for number in MANY]
    assert len({one.kind for one in made}) >= len(SHARES)
    bodies = [one for one in made if one.has_body]
    assert sum(one.near_valid for one in bodies) > len(bodies) / 4
    assert any(one.dropped_after is not None for one in made)


def test_no_case_deletes_what_ordinary_requests_ask() -> None:
    """The collection that lasts is in no deletion."""
    deletions = [one for one in (case(4, n) for n in MANY) if one.method == "DELETE"]
    assert deletions
    assert not any(LASTING_COLLECTION in one.target for one in deletions)
