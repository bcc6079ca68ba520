"""The one table of codes."""

import grpc
import pytest

from mesh.errors import Code, MeshError, invalid, unavailable


@pytest.mark.parametrize("code", list(Code))
def test_codes_are_grpcs_own(code: Code) -> None:
    """Each code has the name and number that gRPC gives it, and comes back from the number."""
    assert grpc.StatusCode[code.name].value[0] == code.value.grpc
    assert Code.from_grpc(code.value.grpc) is code


def test_statuses_of_http_fit() -> None:
    """What a caller caused is a 4xx, what we caused a 5xx."""
    ours = {Code.INTERNAL, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED}
    for code in Code:
        assert (code.value.http >= 500) == (code in ours)


@pytest.mark.parametrize("status", [0, 2, 6, 11, 15, 99])
def test_a_number_that_is_never_sent_is_internal(status: int) -> None:
    """Foreign statuses are faults."""
    assert Code.from_grpc(status) is Code.INTERNAL


def test_the_two_common_errors() -> None:
    """A bad field is named; what is not there now says when to try again."""
    bad = invalid("top_k", "top_k must be at most 100.")
    assert (bad.code, bad.field, bad.retry_after_s) == (Code.INVALID_ARGUMENT, "top_k", None)
    gone = unavailable("Not now.", 2.5)
    assert (gone.code, gone.field, gone.retry_after_s) == (Code.UNAVAILABLE, None, 2.5)
    assert str(MeshError(Code.INTERNAL, "Words.")) == "Words."
