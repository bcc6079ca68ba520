"""The load generator, a process of its own: `python -m bench.service.load`.

Takes a `Load` as JSON on its standard input and writes a `Report`. It is light because it shares
the cores with the stack: bodies are made before, answers are read after.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.service.answers import Answer, read
from bench.service.client import Client, Exchange
from bench.service.prompts import Asked, Prompts

# what has no whole answer by then counts as failed
ANSWER_LIMIT_S = 60.0
LEAD_S = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: at `due_s`, or from `concurrency` clients for `duration_s`; times in seconds.

    `first` is the number of the first prompt.
    """

    url: str
    key: str
    asked: Asked
    first: int
    due_s: tuple[float, ...] = ()
    concurrency: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came back, how long it took, and what the generator itself used of a processor."""

    answers: list[Answer]
    wall_s: float
    cpu_s: float


def run(load: Load) -> Report:
    """Have a process generate the load; raises CalledProcessError."""
    command = [sys.executable, "-m", "bench.service.load"]
    text = json.dumps(asdict(load))
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    answers = [Answer(**{**each, "texts_s": tuple(each["texts_s"])}) for each in told["answers"]]
    return Report(answers, told["wall_s"], told["cpu_s"])


async def generate(load: Load) -> Report:
    """Send everything and read what came back."""
    address = urlsplit(load.url)
    client = Client(str(address.hostname), address.port or 80, load.key, ANSWER_LIMIT_S)
    prompts = Prompts(load.asked, load.first)
    bodies = [prompts.body() for _ in load.due_s]
    # no pause of this process may count as one of the stack's
    gc.disable()
    used = os.times()
    started_s = asyncio.get_running_loop().time()
    if load.concurrency:
        exchanges = await _closed_loop(client, prompts, load.concurrency, load.duration_s)
    else:
        exchanges = await _open_loop(client, bodies, load.due_s)
    wall_s = asyncio.get_running_loop().time() - started_s
    now_used = os.times()
    cpu_s = now_used.user + now_used.system - used.user - used.system
    return Report([read(exchange) for exchange in exchanges], wall_s, cpu_s)


async def _open_loop(
    client: Client, bodies: list[bytes], due_s: tuple[float, ...]
) -> list[Exchange]:
    loop = asyncio.get_running_loop()
    start_s = loop.time() + LEAD_S
    async with asyncio.TaskGroup() as group:
        tasks = []
        for body, moment_s in zip(bodies, due_s, strict=True):
            # one that is late goes at once, and counts from when it was due
            await asyncio.sleep(max(0.0, start_s + moment_s - loop.time()))
            tasks.append(group.create_task(client.send(body, start_s + moment_s)))
    return [task.result() for task in tasks]


async def _closed_loop(
    client: Client, prompts: Prompts, concurrency: int, duration_s: float
) -> list[Exchange]:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + duration_s
    exchanges: list[Exchange] = []

    async def visit() -> None:
        while (now_s := loop.time()) < end_s:
            exchange = await client.send(prompts.body(), now_s)
            exchanges.append(exchange)
            if exchange.fault:
                # a server that refuses at once must not be asked ten thousand times a second
                await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(visit())
    return exchanges


def main() -> None:
    """Read the load, generate it, write the report."""
    told: dict[str, Any] = json.load(sys.stdin)
    load = Load(**{**told, "asked": Asked(*told["asked"]), "due_s": tuple(told["due_s"])})
    report = asyncio.run(generate(load))
    answers = [answer._asdict() for answer in report.answers]
    json.dump({"answers": answers, "wall_s": report.wall_s, "cpu_s": report.cpu_s}, sys.stdout)


if __name__ == "__main__":
    main()
