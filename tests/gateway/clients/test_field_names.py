"""Fields of other contracts under the request's names."""

import pytest

from mesh.errors import Code, MeshError, invalid
from services.gateway.clients.field_names import prefixed, renamed


@pytest.mark.parametrize(
    ("names", "field"), [(renamed("prompt"), "prompt"), (prefixed("retrieval"), "retrieval.top_k")]
)
def test_a_nested_field_is_named_from_the_root(names: object, field: str) -> None:
    """The refusal goes on with the name that the caller knows."""
    with pytest.raises(MeshError) as caught, names:  # type: ignore[attr-defined]
        raise invalid("top_k", "x")
    assert caught.value.field == field


def test_no_field_stays_none() -> None:
    """What is about no field is about none of the request's."""
    with pytest.raises(MeshError) as caught, prefixed("retrieval"), renamed("prompt"):
        raise MeshError(Code.INTERNAL, "x")
    assert caught.value.field is None
