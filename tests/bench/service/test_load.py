"""The load generator against a server that answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bench.service.load import Load, generate
from bench.service.prompts import Asked
from tests.bench.service.test_answers import CHUNKS, HEAD

ASKED = Asked("tiny", 24)
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def server(answer: Callable[[int], list[bytes]]) -> AsyncIterator[str]:
    """Answer the n-th request with pieces; where there are none, hang up."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while head := await reader.readline():
            while (line := await reader.readline()) != b"\r\n":
                head = line
            await reader.readexactly(int(head.split(b":")[1]))
            pieces, count = answer(count), count + 1
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if not pieces:
                break
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_every_request_has_an_answer_or_a_fault() -> None:
    """Refusals and lost connections are told, one by one."""
    answers = [[HEAD, *CHUNKS], [REFUSAL], [], [HEAD[:30], HEAD[30:], b"".join(CHUNKS)]]
    async with server(lambda number: answers[number]) as url:
        report = await generate(Load(url, "key", ASKED, 0, due_s=(0.0, 0.2, 0.4, 0.6)))
    faults = [answer.fault for answer in report.answers]
    assert faults == ["", "HTTP 503", "connection lost", ""]
    assert report.answers[0].num_tokens == report.answers[3].num_tokens == 5


async def test_a_server_that_is_not_there_is_a_fault_of_each_request() -> None:
    """Nothing is raised, and nothing is dropped."""
    async with server(lambda number: []) as url:
        pass
    report = await generate(Load(url, "key", ASKED, 0, due_s=(0.0, 0.01)))
    assert [answer.fault for answer in report.answers] == ["ConnectionRefusedError"] * 2


async def test_clients_ask_one_after_the_other() -> None:
    """A closed loop of two clients never has more than two requests open."""
    async with server(lambda number: [HEAD, *CHUNKS]) as url:
        report = await generate(Load(url, "key", ASKED, 0, concurrency=2, duration_s=0.2))
    assert len(report.answers) > 4
    assert not any(answer.fault for answer in report.answers)
