"""The files that the architecture's document names are those that a chat request goes through.

A request enters some seventy files, most of them for a call that returns at once: a value is read,
a number is counted. It is *on its way* in those that stand on the call stack, awaits included,
where it leaves Python's hands: to another service, onto the bus, into a step of the model, to the
client's socket. Whoever follows a request reads these files, and the others when they need to.
"""

import re

import aiohttp
import pytest
from aiohttp import web
from grpc.aio import _call

from mesh import rpc
from mesh.bus import Bus
from services.generator.backend.mock.executor import MockExecutor
from tests.e2e.in_process import chat, mesh, until_served
from tests.tracer import ROOT, Recording, Tracer

pytestmark = pytest.mark.e2e

DOCUMENT = ROOT / "docs" / "architecture.md"
SECTION = "## The life of a chat request\n"
FOLDERS = ("services/gateway", "services/generator")
CROSSINGS = (
    rpc.call.__code__,
    _call.StreamStreamCall.write.__code__,
    Bus.publish.__code__,
    MockExecutor.execute.__code__,
    web.StreamResponse.write.__code__,
)
HANDLER = "services/gateway/api/openai/chat.py"
MOST_STEPS, MOST_HELPERS = 8, 4
NAMED = re.compile(r"`(services/[\w/]+\.py)`")


def life_of_a_request() -> tuple[list[str], list[str]]:
    """Return the files that the numbered steps name, and those that the helpers' line does."""
    _, _, rest = DOCUMENT.read_text().partition(SECTION)
    paragraphs = rest.partition("\n## ")[0].split("\n\n")
    steps = [text for text in paragraphs if re.match(r"\n?1\. ", text)]
    helpers = [text for text in paragraphs if text.startswith("Helpers:")]
    assert len(steps) == len(helpers) == 1, "a list of steps and a paragraph of helpers"
    return NAMED.findall(steps[0]), NAMED.findall(helpers[0])


@pytest.fixture
async def traced(nats_url: str, redis_url: str) -> Recording:
    """What one streamed chat entered, once the mesh had served another."""
    tracer = Tracer(FOLDERS, CROSSINGS)
    # the engine's thread is followed because it starts while the tracer is there
    with tracer.installed():
        async with mesh(nats_url, redis_url) as address, aiohttp.ClientSession() as session:
            await until_served(address, session)
            await chat(address, session, "Hello!")
            with tracer.recording() as recording:
                await chat(address, session, "And now?")
    return recording


def test_the_document_names_few_files() -> None:
    """Eight at most, the handler among them, and four helpers; all of them exist, each once."""
    steps, helpers = life_of_a_request()
    assert len(steps) <= MOST_STEPS
    assert len(helpers) <= MOST_HELPERS
    assert HANDLER in steps
    assert len({*steps, *helpers}) == len(steps) + len(helpers)
    assert [path for path in (*steps, *helpers) if not (ROOT / path).is_file()] == []


async def test_a_chat_goes_through_the_files_that_the_document_names(traced: Recording) -> None:
    """It enters each of them, the steps in their order, and is on its way in no other."""
    steps, helpers = life_of_a_request()
    entered = "\n".join(f"{path} by {function}" for path, function in traced.entered.items())
    assert [path for path in (*steps, *helpers) if path not in traced.entered] == [], entered
    assert [path for path in traced.entered if path in steps] == steps, entered
    others = [path for path in traced.on_stacks if path not in {*steps, *helpers}]
    assert others == [], f"on the way: {traced.on_stacks}\nentered:\n{entered}"
