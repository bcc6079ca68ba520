"""OpenAI's error object."""

import pytest

from mesh.errors import Code, MeshError, invalid
from services.gateway.api.openai.errors import TYPES, error_body, error_event
from services.gateway.domain.errors import model_not_found


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_shape(code: Code) -> None:
    """Each of the mesh's codes becomes the four fields, with the table's type."""
    error = error_body(MeshError(code, "Words."))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == TYPES[code]


def test_reasons() -> None:
    """A refusal's own code wins; an invalid field has its name and no code."""
    assert error_body(model_not_found("m"))["error"]["code"] == "model_not_found"
    error = error_body(invalid("n", "n is odd."))["error"]
    assert (error["param"], error["code"]) == ("n", None)


def test_a_stream_ends_with_the_same_object() -> None:
    """The event holds what the body of a plain answer would."""
    assert error_event(invalid("n", "n is odd.")).startswith(
        b'data: {"error":{"message":"n is odd."'
    )
