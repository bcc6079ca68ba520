"""OpenAI's error shape."""

import pytest

from mesh.errors import Code, MeshError, invalid
from services.gateway.domain import errors


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_shape(code: Code) -> None:
    """Each of the mesh's codes becomes the four fields, with the table's type."""
    error = errors.body(MeshError(code, "Words."))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == code.value.openai


def test_reasons() -> None:
    """A refusal's own code wins; an invalid field has its name and no code."""
    assert errors.body(errors.model_not_found("m"))["error"]["code"] == "model_not_found"
    error = errors.body(invalid("n", "n is odd."))["error"]
    assert (error["param"], error["code"]) == ("n", None)


def test_prefix() -> None:
    """A nested service's field is named from the request's root; none stays none."""
    named, unnamed = invalid("top_k", "x"), MeshError(Code.INTERNAL, "x")
    errors.prefix_field(named, "retrieval")
    errors.prefix_field(unnamed, "retrieval")
    assert (named.field, unnamed.field) == ("retrieval.top_k", None)
