"""The cache's settings."""

import pytest

from mesh.config import ConfigError, load
from services.cache.config import CacheSettings


def test_defaults() -> None:
    """An hour, a mebibyte, a quarter of a second."""
    settings = load(CacheSettings, {})
    found = (settings.port, settings.ttl_s, settings.max_answer_bytes, settings.timeout_s)
    assert found == (50053, 3600, 2**20, 0.25)


def test_every_mistake_is_named() -> None:
    """All at once, by the variable."""
    environ = {"INFERMESH_CACHE_TTL_S": "0", "INFERMESH_CACHE_TIMEOUT_S": "no"}
    with pytest.raises(ConfigError) as caught:
        load(CacheSettings, environ)
    assert [p.split(":")[0] for p in caught.value.problems] == sorted(environ, reverse=True)
