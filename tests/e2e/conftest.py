"""The stack under test: one started here, or a running one named by INFERMESH_E2E_URL and _KEY."""

import os
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.spans import SpanReceiver
from tests.e2e.stack import Address, Stack


@pytest.fixture(scope="session")
def spans() -> Iterator[SpanReceiver]:
    """An OTLP receiver that keeps what it is sent."""
    with SpanReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, spans: SpanReceiver) -> Iterator[Stack]:
    """Two generators, one of everything else, traced."""
    started = Stack(
        tmp_path_factory.mktemp("stack"),
        "--generators",
        "2",
        INFERMESH_OTLP_ENDPOINT=spans.endpoint,
    )
    try:
        started.wait_ready()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> Address:
    """Of the running stack that the environment names, else of ours."""
    url = os.environ.get("INFERMESH_E2E_URL")
    if url:
        return Address(url, os.environ["INFERMESH_E2E_KEY"])
    stack: Stack = request.getfixturevalue("stack")
    return stack.address


@pytest.fixture
def client(address: Address) -> Iterator[openai.OpenAI]:
    """The official client, without its retries: every answer counts."""
    with openai.OpenAI(
        base_url=address.url + "/v1", api_key=address.key, max_retries=0, timeout=60
    ) as opened:
        yield opened


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    """The id of the chat model."""
    return client.models.list().data[0].id
