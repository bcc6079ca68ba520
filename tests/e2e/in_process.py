"""A mesh whose services share this process and its event loop, so that a test can look inside."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from cli import servers
from cli.plan import BUNDLED_MODEL
from mesh.config import Settings
from mesh.lifecycle import Lifecycle, State
from services.cache.__main__ import start as start_cache
from services.cache.config import CacheSettings
from services.gateway.__main__ import start as start_gateway
from services.gateway.config import GatewaySettings
from services.generator.__main__ import start as start_generator
from services.generator.config import GeneratorSettings
from services.tokenizer.__main__ import start as start_tokenizer
from services.tokenizer.config import TokenizerSettings
from tests.e2e.stack import Address
from tests.waiting import POLL_S

KEY = "a-key-for-development"


@asynccontextmanager
async def mesh(nats_url: str, redis_url: str) -> AsyncIterator[Address]:
    """Run a gateway, a tokenizer, a cache and a generator with a mock model; no retriever."""
    ports = {name: servers.free_port() for name in ("gateway", "tokenizer", "cache", "retriever")}
    shared: dict[str, Any] = {
        "nats_url": nats_url,
        "redis_url": redis_url,
        "model": str(BUNDLED_MODEL),
        **{f"{name}_url": f"127.0.0.1:{port}" for name, port in ports.items() if name != "gateway"},
    }
    async with AsyncExitStack() as stack:

        async def run(start: Callable[..., Awaitable[None]], settings: Settings) -> None:
            lifecycle = Lifecycle()
            stack.push_async_callback(lifecycle.close)
            await start(settings, lifecycle)
            lifecycle.advance(State.READY)

        await run(start_tokenizer, TokenizerSettings(port=ports["tokenizer"], **shared))
        await run(start_cache, CacheSettings(port=ports["cache"], **shared))
        await run(start_generator, GeneratorSettings(port=0, engine="mock", **shared))
        await run(start_gateway, GatewaySettings(port=ports["gateway"], dev_key=KEY, **shared))
        yield Address(f"http://127.0.0.1:{ports['gateway']}", KEY)


async def chat(address: Address, session: aiohttp.ClientSession, content: str) -> str:
    """Return the events of one streamed chat completion."""
    messages = [{"role": "user", "content": content}]
    async with session.post(
        f"{address.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {address.key}"},
        json={
            "model": BUNDLED_MODEL.name,
            "messages": messages,
            "max_tokens": 8,
            "stream": True,
        },
    ) as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def until_served(address: Address, session: aiohttp.ClientSession) -> None:
    """Return once the gateway has heard of a replica."""
    deadline = time.monotonic() + 10.0
    while await _num_models(address, session) == 0:
        assert time.monotonic() < deadline, "no replica was announced"
        await asyncio.sleep(POLL_S)


async def _num_models(address: Address, session: aiohttp.ClientSession) -> int:
    headers = {"Authorization": f"Bearer {address.key}"}
    async with session.get(f"{address.url}/v1/models", headers=headers) as response:
        models = (await response.json())["data"]
    return sum(model["id"] == BUNDLED_MODEL.name for model in models)
