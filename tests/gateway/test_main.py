"""The gateway as a process: starts, says what it misses, drains, refuses bad settings."""

import asyncio
import os
import signal
import sys
from typing import Any

import aiohttp

from cli.servers import free_port

LIMIT_S = 60.0


async def process(**environ: str) -> asyncio.subprocess.Process:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("INFERMESH_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.gateway",
        env={**kept, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def answer(url: str, running: asyncio.subprocess.Process) -> tuple[int, Any]:
    """The first answer once something listens."""
    async with aiohttp.ClientSession() as http:
        while running.returncode is None:
            try:
                async with http.get(url) as response:
                    return response.status, await response.json()
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)
    raise AssertionError("the gateway ended")


async def test_life_of_the_process(nats_url: str) -> None:
    """Alone with NATS it is alive, names what fails, and SIGTERM ends it with 0."""
    port, nowhere = free_port(), free_port()
    running = await process(
        INFERMESH_NATS_URL=nats_url,
        INFERMESH_GATEWAY_PORT=str(port),
        INFERMESH_GATEWAY_DEV_KEY="k",
        INFERMESH_TOKENIZER_URL=f"127.0.0.1:{nowhere}",
        INFERMESH_RETRIEVER_URL=f"127.0.0.1:{nowhere}",
        INFERMESH_CACHE_URL=f"127.0.0.1:{nowhere}",
    )
    async with asyncio.timeout(LIMIT_S):
        assert (await answer(f"http://127.0.0.1:{port}/livez", running))[0] == 200
        status, body = await answer(f"http://127.0.0.1:{port}/readyz", running)
        assert status == 503
        assert set(body["failing"]) == {"tokenizer", "generator", "retriever", "cache"}
        running.send_signal(signal.SIGTERM)
        _, stderr = await running.communicate()
    assert running.returncode == 0, stderr.decode()
    assert b"Traceback" not in stderr


async def test_bad_settings_exit_with_2() -> None:
    """Every mistake in the environment is named at once, and nothing starts."""
    running = await process(INFERMESH_GATEWAY_PROT="1")
    async with asyncio.timeout(LIMIT_S):
        _, stderr = await running.communicate()
    assert running.returncode == 2
    assert b"INFERMESH_GATEWAY_PROT" in stderr and b"INFERMESH_GATEWAY_DEV_KEY" in stderr
