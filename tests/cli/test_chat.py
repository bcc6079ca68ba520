"""The terminal chat."""

import asyncio
import io
import json

import pytest
from aiohttp import web

from cli import servers
from cli.main import main

END = "data: [DONE]\n\n"


def says(*pieces: str, citations: list[dict[str, object]] | None = None) -> list[object]:
    """The events of one answer."""
    first = {"choices": [{"delta": {"role": "assistant"}}]}
    if citations is not None:
        first["citations"] = citations
    return [first, *({"choices": [{"delta": {"content": p}}]} for p in pieces), END]


@pytest.fixture
def chat(gateway, monkeypatch: pytest.MonkeyPatch):
    """Types lines into the chat; returns its exit code."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "tiny"}, {"id": "all-MiniLM-L6-v2"}]})

    gateway.on("GET", "/v1/models", models)

    async def run(typed: str, *arguments: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return await asyncio.to_thread(main, ["chat", *arguments])

    return run


def asked(gateway) -> list[dict[str, object]]:
    """The bodies of all chat requests."""
    return [json.loads(body) for body in gateway.bodies if body]


async def test_an_answer_is_shown_and_remembered(
    gateway, chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first model answers; the second question carries the first turn; Ctrl-D ends."""
    gateway.on("POST", "/v1/chat/completions", gateway.chat(says("Hel", "lo", "!")))
    assert await chat("Hi\n\nAgain\n", "--system", "Be kind.") == 0
    first, second = asked(gateway)
    system = {"role": "system", "content": "Be kind."}
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert first == {"model": "tiny", "stream": True, "messages": [system, turn[0]]}
    assert second["messages"] == [system, *turn, {"role": "user", "content": "Again"}]
    assert capsys.readouterr().out.count("Hello!\n") == 2


async def test_reset_forgets_and_quit_ends(gateway, chat) -> None:
    """What was said before is not sent, what comes after not read."""
    gateway.on("POST", "/v1/chat/completions", gateway.chat(says("Yes.")))
    assert await chat("One\n/reset\nTwo\n/quit\nThree\n", "--model", "other") == 0
    first, second = asked(gateway)
    assert first["model"] == "other"
    assert second["messages"] == [{"role": "user", "content": "Two"}]


async def test_a_grounded_answer_names_its_sources(
    gateway, chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the numbers that the answer cites."""
    citations = [{"id": "1", "source": "a.md"}, {"id": "2", "source": "deep/b.md"}]
    told_twice = [*says("Red [2].", citations=citations)[:-1], {"citations": citations}, END]
    gateway.on("POST", "/v1/chat/completions", gateway.chat(told_twice))
    await chat("What colour?\n", "--collection", "docs")
    assert asked(gateway)[0]["retrieval"] == {"collection": "docs"}
    assert "Red [2].\nsources: [1] a.md  [2] deep/b.md\n" in capsys.readouterr().out


async def test_the_oldest_turns_go_when_the_context_is_full(gateway, chat) -> None:
    """One by one, until it fits."""
    answer = gateway.chat(says("Yes."))

    async def narrow(request: web.Request) -> web.StreamResponse:
        messages = json.loads(await request.read())["messages"]
        if len(messages) > 3:
            error = {"message": "Too long.", "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        return await answer(request)

    gateway.on("POST", "/v1/chat/completions", narrow)
    await chat("One\nTwo\nThree\n")
    *_, refused, last = asked(gateway)
    assert len(refused["messages"]) == 5
    assert [m["content"] for m in last["messages"]] == ["Two", "Yes.", "Three"]


async def test_a_question_that_never_fits_is_told(
    gateway, chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chat goes on, without it."""

    async def refuse(request: web.Request) -> web.Response:
        error = {"message": "Too long.", "code": "context_length_exceeded"}
        return web.json_response({"error": error}, status=400)

    gateway.on("POST", "/v1/chat/completions", refuse)
    assert await chat("One\nTwo\n") == 0
    assert [len(body["messages"]) for body in asked(gateway)] == [1, 1]
    assert capsys.readouterr().err.count("infermesh chat: Too long.") == 2


async def test_half_an_answer_is_not_remembered(gateway, chat) -> None:
    """The next question stands alone."""
    gateway.on("POST", "/v1/chat/completions", gateway.chat(says("Half")[:-1]))
    await chat("One\nTwo\n")
    assert [len(body["messages"]) for body in asked(gateway)] == [1, 1]


def test_no_gateway_ends_the_chat_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line."""
    monkeypatch.setenv("INFERMESH_URL", f"http://127.0.0.1:{servers.free_port()}")
    assert main(["chat"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
