"""The gateway's settings refuse what would leave it open or ambiguous."""

import pytest

from mesh.config import ConfigError, load
from services.gateway.config import GatewaySettings


def test_no_key_is_refused_by_name() -> None:
    """A gateway that nobody could use, or everyone, does not start by accident."""
    with pytest.raises(ConfigError, match="INFERMESH_GATEWAY_DEV_KEY"):
        load(GatewaySettings, {})


def test_auth_off_needs_no_key() -> None:
    """Answering everyone has to be asked for."""
    assert load(GatewaySettings, {"INFERMESH_GATEWAY_AUTH": "off"}).auth == "off"


def test_equal_keys_are_refused() -> None:
    """A key stands for one tenant."""
    environ = {"INFERMESH_GATEWAY_DEV_KEY": "k", "INFERMESH_GATEWAY_ADMIN_KEY": "k"}
    with pytest.raises(ConfigError, match="must differ"):
        load(GatewaySettings, environ)


def test_keys_do_not_show() -> None:
    """Printing the settings prints no key."""
    settings = load(GatewaySettings, {"INFERMESH_GATEWAY_DEV_KEY": "sesame"})
    assert "sesame" not in repr(settings) + str(settings.model_dump())
