"""A hub and an index of ours for the tests of this folder."""

import os
import threading
from collections.abc import Iterator

import pytest

from tests.cli.models.hub_server import FILES, Hub, serving
from tests.cli.models.wheel_index import Index


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(dict(FILES))) as served:
        yield served


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index()
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    yield served
    served.goes_on.set()
    served.server.shutdown()
    served.server.server_close()
