"""Settings from the environment: every mistake at once, by the variable's name."""

from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from mesh.config import ConfigError, Settings, load, load_or_exit, variables

SERVICES = ("cache", "gateway", "generator")


class CacheLike(Settings):
    """Settings as a service declares them."""

    service: ClassVar[str] = "cache"

    port: int = Field(50053, ge=0, le=65535)
    ttl_s: float = Field(60.0, gt=0)


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(CacheLike, environ, SERVICES)
    return error.value.problems


def test_defaults_without_an_environment() -> None:
    """Nothing has to be set."""
    settings = load(CacheLike, {})
    assert (settings.port, settings.nats_url) == (50053, "nats://127.0.0.1:4222")


def test_shared_and_own_variables() -> None:
    """Shared fields have the prefix alone, a service's own fields its name too."""
    settings = load(
        CacheLike, {"INFERMESH_NATS_URL": "nats://n:1", "INFERMESH_CACHE_PORT": "7", "HOME": "/x"}
    )
    assert (settings.nats_url, settings.port) == ("nats://n:1", 7)
    assert variables(CacheLike)["INFERMESH_CACHE_TTL_S"] == "ttl_s"
    assert variables(CacheLike)["INFERMESH_DRAIN_S"] == "drain_s"


def test_all_mistakes_at_once() -> None:
    """Bad values and unknown names are told together, each with its variable."""
    found = problems(
        {
            "INFERMESH_CACHE_PORT": "high",
            "INFERMESH_CACHE_TTL_S": "-1",
            "INFERMESH_LOG_LEVEL": "LOUD",
            "INFERMESH_CACHE_PROT": "1",
            "INFERMESH_NATS_ULR": "x",
        }
    )
    named = {line.split(":")[0] for line in found}
    assert named == {
        "INFERMESH_CACHE_PORT",
        "INFERMESH_CACHE_TTL_S",
        "INFERMESH_LOG_LEVEL",
        "INFERMESH_CACHE_PROT",
        "INFERMESH_NATS_ULR",
    }
    assert len(found) == 5


def test_an_own_field_needs_the_services_name() -> None:
    """`INFERMESH_PORT` is nobody's."""
    assert problems({"INFERMESH_PORT": "1"}) == ["INFERMESH_PORT: unknown variable"]


def test_a_shared_field_takes_no_service_name() -> None:
    """`INFERMESH_CACHE_NATS_URL` would be ignored: it is refused."""
    assert problems({"INFERMESH_CACHE_NATS_URL": "x"}) == [
        "INFERMESH_CACHE_NATS_URL: unknown variable"
    ]


def test_variables_of_others_are_tolerated() -> None:
    """One environment serves all services and the client commands."""
    load(
        CacheLike,
        {
            "INFERMESH_GATEWAY_PORT": "not for us",
            "INFERMESH_GENERATOR_ANYTHING": "1",
            "INFERMESH_URL": "http://x",
            "INFERMESH_API_KEY": "k",
        },
        SERVICES,
    )


def test_services_that_nobody_named_are_unknown() -> None:
    """The mesh knows no service by itself."""
    with pytest.raises(ConfigError, match="INFERMESH_GATEWAY_PORT: unknown variable"):
        load(CacheLike, {"INFERMESH_GATEWAY_PORT": "1"})


def test_empty_is_unset() -> None:
    """An empty value, as compose files make them, means the default, even for unknown names."""
    assert load(CacheLike, {"INFERMESH_CACHE_PORT": "", "INFERMESH_TYPO": ""}).port == 50053


def test_frozen() -> None:
    """Settings cannot change after the start."""
    with pytest.raises(ValidationError):
        load(CacheLike, {}).port = 1  # type: ignore[misc]


def test_bad_settings_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The process ends with 2 and one line per mistake."""
    with pytest.raises(SystemExit) as end:
        load_or_exit(CacheLike, {"INFERMESH_CACHE_PORT": "x", "INFERMESH_TYPO": "y"}, SERVICES)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("config: INFERMESH_") for line in lines)
