"""HTTP to the gateway as the commands speak it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli import servers
from cli.client import ApiError, Gateway, events

END = "data: [DONE]\n\n"


async def in_thread(call: Any, *arguments: Any) -> Any:
    """The client blocks; the fake gateway needs the loop."""
    return await asyncio.to_thread(call, *arguments)


async def stream(gateway: Any) -> list[Any]:
    """All events of one streaming call."""
    client = Gateway(gateway.url, "key")
    return await in_thread(lambda: list(client.stream("/chat", {"a": 1})))


def test_events_follow_the_rules_of_the_standard() -> None:
    """Comments, other fields, CRLF, several data lines, no space, an event without an end."""
    raw = b": hello\n\ndata: a\n\nevent: x\nid: 1\ndata:b\r\ndata:  c\r\n\r\ndata\n\ndata: lost\n"
    assert list(events(raw.splitlines(keepends=True))) == ["a", "b\n c", ""]


async def test_a_call_carries_the_key_and_reads_json(gateway) -> None:
    """Body and content type go as they are."""

    async def reply(request: web.Request) -> web.Response:
        return web.json_response({"kind": request.content_type})

    gateway.on("POST", "/v1/things", reply)
    client = Gateway.from_environment()
    found = await in_thread(client.call, "POST", "/v1/things?a=b", b"\xff\x00", "text/html")
    assert found == {"kind": "text/html"}
    assert gateway.bodies == [b"\xff\x00"]
    assert gateway.requests[0].headers["Authorization"] == "Bearer sk-infermesh-test"


async def test_an_error_is_in_the_gateways_words(gateway) -> None:
    """With its code, its status and when to try again."""

    async def reply(request: web.Request) -> web.Response:
        error = {"message": "Too many requests.", "code": "slow_down"}
        return web.json_response({"error": error}, status=429, headers={"Retry-After": "2"})

    gateway.on("GET", "/x", reply)
    with pytest.raises(ApiError, match="Too many requests") as caught:
        await in_thread(Gateway(gateway.url, "key").call, "GET", "/x")
    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (429, "slow_down", 2.0)


@pytest.mark.parametrize("body", ["<html>", '"text"', '{"error": "text"}', "[]"])
async def test_an_error_of_another_shape_is_its_status(gateway, body: str) -> None:
    """A proxy in between answers in its own way."""

    async def reply(request: web.Request) -> web.Response:
        return web.Response(text=body, status=502)

    gateway.on("GET", "/x", reply)
    with pytest.raises(ApiError, match="HTTP status 502"):
        await in_thread(Gateway(gateway.url, "key").call, "GET", "/x")


async def test_a_reply_that_is_no_json_is_an_error(gateway) -> None:
    """Something else listens there."""

    async def reply(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    gateway.on("GET", "/x", reply)
    with pytest.raises(ApiError, match="no JSON"):
        await in_thread(Gateway(gateway.url, "key").call, "GET", "/x")


def test_nobody_there_is_one_clear_line() -> None:
    """It names the address and what to do, whatever proxies the environment has."""
    url = f"http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(ApiError, match="connection refused") as caught:
        Gateway(url, "key").call("GET", "/x")
    assert caught.value.status == 0
    assert url in str(caught.value)
    assert "infermesh up" in str(caught.value)


async def test_a_proxy_is_not_asked_for_this_machine(
    gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not reach it."""

    async def reply(request: web.Request) -> web.Response:
        return web.json_response({})

    gateway.on("GET", "/x", reply)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await in_thread(Gateway(gateway.url, "key").call, "GET", "/x") == {}


async def test_a_stream_yields_events_until_its_end_mark(gateway) -> None:
    """Keep-alive comments are passed over."""
    gateway.on("POST", "/chat", gateway.chat([{"n": 1}, ": keep-alive\n\n", {"n": 2}, END]))
    assert await stream(gateway) == [{"n": 1}, {"n": 2}]


async def test_a_stream_that_breaks_off_is_an_error(gateway) -> None:
    """Half an answer is not taken for a whole one."""
    gateway.on("POST", "/chat", gateway.chat([{"n": 1}]))
    with pytest.raises(ApiError, match="broke off"):
        await stream(gateway)


async def test_an_error_event_ends_a_stream(gateway) -> None:
    """In the gateway's words."""
    failure = {"error": {"message": "The replica was lost.", "code": None}}
    gateway.on("POST", "/chat", gateway.chat([{"n": 1}, failure]))
    with pytest.raises(ApiError, match=r"The replica was lost\."):
        await stream(gateway)


def test_the_key_of_this_folders_stack_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment wins over it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".infermesh").mkdir()
    (tmp_path / ".infermesh" / "dev-key").write_text("sk-a")
    assert Gateway.from_environment({})._key == "sk-a"
    assert Gateway.from_environment({})._key == "sk-a"
    assert Gateway.from_environment({"INFERMESH_API_KEY": "sk-b"})._key == "sk-b"
    assert Gateway.from_environment({}).url == "http://127.0.0.1:8080"


@pytest.mark.parametrize("event", ["no json", "[1]", "null", "5"])
async def test_an_event_of_another_shape_is_an_error(gateway, event: str) -> None:
    """Of the answer, and no fault of ours."""

    async def reply(request: web.Request) -> web.Response:
        return web.Response(text=f"data: {event}\n\n{END}", content_type="text/event-stream")

    gateway.on("POST", "/chat", reply)
    with pytest.raises(ApiError, match="no JSON"):
        await stream(gateway)


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "tomorrow", ""])
async def test_a_time_to_wait_that_is_none_is_not_heeded(gateway, given: str) -> None:
    """Nobody waits for ever."""

    async def reply(request: web.Request) -> web.Response:
        return web.json_response({}, status=503, headers={"Retry-After": given})

    gateway.on("GET", "/x", reply)
    with pytest.raises(ApiError) as caught:
        await in_thread(Gateway(gateway.url, "key").call, "GET", "/x")
    assert caught.value.retry_after_s is None
