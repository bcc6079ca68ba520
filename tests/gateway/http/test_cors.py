"""Pages of other origins: let in where a setting names them."""

from typing import Any

import aiohttp
import pytest

PAGE = "https://app.example"
ASKED = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-request-timeout-s",
}


@pytest.fixture(params=[None, PAGE, "https://a.example, " + PAGE, "*", "https://a.example"])
def origins(request: pytest.FixtureRequest) -> str | None:
    """What the setting names."""
    value: str | None = request.param
    return value


@pytest.fixture
def settings(settings: Any, origins: str | None) -> Any:
    """The gateway's, with these origins."""
    return settings.model_copy(update={"cors_origins": origins or ""})


async def test_preflight_and_answers(stack: Any, origins: str | None) -> None:
    """A page that is let in may ask and read; any other is told so, without a word of keys."""
    lets_in = origins is not None and (PAGE in origins or origins == "*")
    url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
    async with aiohttp.ClientSession() as session:
        async with session.options(url, headers=ASKED) as preflight:
            headers = preflight.headers
            assert preflight.status == (204 if lets_in else 403)
            assert "WWW-Authenticate" not in headers
            if lets_in:
                assert headers["Access-Control-Allow-Origin"] == ("*" if origins == "*" else PAGE)
                assert {"GET", "POST", "DELETE"} <= set(
                    headers["Access-Control-Allow-Methods"].split(", ")
                )
                allowed = headers["Access-Control-Allow-Headers"].lower()
                assert allowed == ASKED["Access-Control-Request-Headers"]
        keyed = {"Authorization": "Bearer a-key-for-development", "Origin": PAGE}
        for body, given in (
            (stack.body, keyed),
            ({**stack.body, "stream": True}, keyed),
            ({}, keyed),
            (stack.body, {"Origin": PAGE}),
        ):
            async with session.post(url, json=body, headers=given) as answer:
                await answer.read()
                named = answer.headers.get("Access-Control-Allow-Origin")
                assert named == (("*" if origins == "*" else PAGE) if lets_in else None)
                exposed = answer.headers.get("Access-Control-Expose-Headers", "")
                assert ("x-request-id" in exposed) is lets_in
                assert (answer.headers.get("Vary") == "Origin") is (origins not in (None, "*"))


async def test_options_without_a_page_is_no_matter_of_keys(stack: Any) -> None:
    """405 names the methods."""
    url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.options(url) as answer:
        assert answer.status == 405 and "POST" in answer.headers["Allow"]
