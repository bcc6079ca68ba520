"""Typed reading of JSON objects; `test_openai` has the table of refusals."""

import pytest

from mesh.errors import MeshError
from services.gateway.api.fields import Fields, integer, texts


def test_names_are_from_the_root() -> None:
    """A nested object's fields are named as the caller wrote them."""
    with pytest.raises(MeshError) as caught:
        Fields({"b": "x"}, "a[0]").integer("b", 0, 1)
    assert caught.value.field == "a[0].b"
    assert caught.value.message == "a[0].b must be an integer, not a string."


def test_null_is_absent() -> None:
    """null and a missing field read the same."""
    read = Fields({"a": None})
    assert read.integer("a", 0, 1) is None and read.boolean("a") is False
    read.finish()


def test_what_nobody_took_is_refused() -> None:
    """A typo is never ignored, even with null behind it."""
    read = Fields({"max_token": None})
    with pytest.raises(MeshError, match="Unrecognized request argument supplied: max_token"):
        read.finish()


def test_the_object_itself_is_left_alone() -> None:
    """Reading takes nothing out of the caller's dictionary."""
    body = {"a": 1}
    assert Fields(body).integer("a", 0, 1) == 1
    assert body == {"a": 1}


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1]])
def test_no_other_type_is_an_integer(value: object) -> None:
    """Booleans and whole floats are no integers."""
    with pytest.raises(MeshError):
        integer("n", value, 0, 10)


def test_bounds_belong_to_the_range() -> None:
    """Both ends are allowed; an open low end is not."""
    assert Fields({"a": 2}).number("a", 0, 2) == 2.0
    assert Fields({"a": 0}).number("a", 0, 2) == 0.0
    with pytest.raises(MeshError, match=r"\(0, 1\]"):
        Fields({"a": 0}).number("a", 0, 1, above=True)


def test_lists_are_bounded() -> None:
    """A list over its limit is refused before its entries are read."""
    with pytest.raises(MeshError, match="at most 2"):
        texts("stop", [1, 2, 3], low=0, high=2)
