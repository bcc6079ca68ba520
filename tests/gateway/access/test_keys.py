"""Keys stand for tenants; anything else is refused."""

import pytest

from mesh.errors import Code, MeshError
from services.gateway.access.keys import ANYONE, Authenticator

KEYS = {"dev": "key-1", "admin": "key-2", "unset": ""}


@pytest.mark.parametrize(
    ("header", "tenant"),
    [("Bearer key-1", "dev"), ("bearer key-2", "admin"), ("BEARER  key-2 ", "admin")],
)
def test_known_keys(header: str, tenant: str) -> None:
    """The scheme's case does not matter, the key's does."""
    assert Authenticator(KEYS).authenticate(header).tenant == tenant


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic key-1", "key-1", "Bearer KEY-1", "Bearer \udcff", "Bearer é"],
)
def test_everything_else_is_refused(header: str) -> None:
    """Missing, malformed and wrong keys, and bytes that are no text, are 401."""
    with pytest.raises(MeshError) as caught:
        Authenticator(KEYS).authenticate(header)
    assert caught.value.code is Code.UNAUTHENTICATED


@pytest.mark.parametrize(("header", "first"), [("Bearer key-1", 0), ("Bearer key-2", -100)])
def test_only_administration_goes_before_others(header: str, first: int) -> None:
    """Every key may give way; a priority before other tenants' needs the administration's."""
    principal = Authenticator(KEYS).authenticate(header)
    principal.check_priority(first)
    principal.check_priority(100)
    with pytest.raises(MeshError, match=f"at least {first}") as caught:
        principal.check_priority(first - 1)
    assert (caught.value.code, caught.value.field) == (Code.PERMISSION_DENIED, "priority")


def test_without_keys_everyone_is_someone() -> None:
    """With checking off, all callers share one tenant."""
    assert Authenticator({}).authenticate("") is ANYONE
