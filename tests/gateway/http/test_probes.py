"""Liveness, readiness with its reasons, and metrics; all without a key."""

from typing import Any

import aiohttp
import pytest

from mesh import health
from services.gateway.clients import health as clients_health


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no failing service."""
    monkeypatch.setattr(health, "PING_TIMEOUT_S", 30.0)
    monkeypatch.setattr(clients_health, "PING_LIMIT_S", 20.0)


async def ready(stack: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(stack.url + "/readyz") as response:
        return response.status, await response.json()


async def test_live_and_metrics_need_no_key(stack: Any) -> None:
    """Operators ask without a key, and see what was counted."""
    await stack.chat()
    async with aiohttp.ClientSession() as http:
        async with http.get(stack.url + "/livez") as response:
            assert response.status == 200
        async with http.get(stack.url + "/metrics") as response:
            text = await response.text()
    assert 'infermesh_gateway_requests_total{route="/v1/chat/completions",status="200"}' in text


async def test_ready_when_all_is_there(stack: Any) -> None:
    """With every service there, it is ready."""
    assert await ready(stack) == (200, {"status": "ready", "failing": {}, "degraded": []})


async def test_helpers_degrade_once_they_were_seen(stack: Any) -> None:
    """A cache that leaves degrades; the tokenizer that leaves makes unready."""
    await ready(stack)
    await stack.remotes["cache"].stop()
    status, body = await ready(stack)
    assert (status, body["status"], body["degraded"]) == (200, "degraded", ["cache"])
    await stack.remotes["tokenizer"].stop()
    status, body = await ready(stack)
    assert status == 503 and set(body["failing"]) == {"tokenizer"}


async def test_helpers_are_needed_until_they_were_seen(stack: Any) -> None:
    """A retriever that never came is a reason not to be ready."""
    await stack.remotes["retriever"].stop()
    status, body = await ready(stack)
    assert status == 503 and set(body["failing"]) == {"retriever"}
