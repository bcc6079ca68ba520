"""Streams of tokens to the real tokenizer service and text back, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cli.servers import free_port
from mesh import rpc
from services.gateway.generation import detokenizer
from services.gateway.generation.detokenized import Text, TextOptions
from services.gateway.generation.detokenizer import NUM_STREAMS, Detokenizer
from tests.gateway.scripted import LETTERS, LetterTokenizer, ids
from tests.waiting import until


class Reader:
    """Collects the text of one sequence."""

    def __init__(self) -> None:
        self.texts: list[Text] = []

    @property
    def text(self) -> str:
        return "".join(text.text for text in self.texts)

    @property
    def is_done(self) -> bool:
        return bool(self.texts) and self.texts[-1].final


class Stage:
    """A running detokenizer and the service that it speaks to."""

    def __init__(self, detokenizer: Detokenizer, service: LetterTokenizer, running: object) -> None:
        self.detokenizer = detokenizer
        self.service = service
        self.running = running

    def open(self, name: str, *stop: str, include_stop: bool = False, **options: Any) -> Reader:
        reader = Reader()
        wanted = TextOptions(stop, include_stop, **options)
        self.detokenizer.open(name, wanted, reader.texts.append)
        return reader

    def feed(self, name: str, text: str, *, final: bool = False) -> None:
        self.detokenizer.feed(name, ids(text), final)

    def held(self) -> int:
        """Sequences that something still remembers."""
        streams = self.detokenizer._streams
        return sum(len(stream.sequences) for stream in streams) + len(self.detokenizer._stream_of)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Both ends run; in the end nothing may be left of any sequence and the task still lives."""
    async with (
        LetterTokenizer().running() as service,
        rpc.channel(f"127.0.0.1:{service.port}") as channel,
    ):
        tested = Detokenizer(channel)
        running = asyncio.create_task(tested.run())
        made = Stage(tested, service, running)
        yield made
        assert not running.done(), running.exception()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert made.held() == 0


async def test_text_comes_in_order(stage: Stage) -> None:
    """Many sequences at once: each gets its own text, in order, and one last piece."""
    readers = {f"s{i}": stage.open(f"s{i}") for i in range(20)}
    for letter in LETTERS:
        for name in readers:
            stage.feed(name, letter)
        await asyncio.sleep(0)
    for name in readers:
        stage.feed(name, "z", final=True)
    for name, reader in readers.items():
        await until(lambda r=reader: r.is_done)
        assert reader.text == LETTERS + "z"
        assert [t.final for t in reader.texts].count(True) == 1
        counts = [t.num_tokens for t in reader.texts]
        assert counts == sorted(counts)
        assert counts[-1] == len(LETTERS) + 1
        stage.detokenizer.forget(name)


async def test_what_piles_up_goes_in_one_message(stage: Stage) -> None:
    """Tokens fed before the stream takes them arrive together."""
    reader = stage.open("s")
    for letter in "abc":
        stage.feed("s", letter)
    stage.feed("s", "", final=True)
    await until(lambda: reader.is_done)
    assert [t.text for t in reader.texts] == ["abc"]
    stage.detokenizer.forget("s")


@pytest.mark.parametrize(("include", "expected"), [(False, "ab"), (True, "abcd")])
async def test_a_stop_string_ends_the_text(stage: Stage, include: bool, expected: str) -> None:
    """A stop string is found across feeds; with `include_stop` it stays in the text."""
    reader = stage.open("s", "cd", include_stop=include)
    for letter in "abcdef":
        stage.feed("s", letter)
        await asyncio.sleep(0.001)
    await until(lambda: reader.is_done)
    assert reader.text == expected
    assert reader.texts[-1].stopped
    stage.detokenizer.forget("s")


async def test_tokens_after_a_stop_are_ignored(stage: Stage) -> None:
    """The engine runs on for a while after a stop string; its tokens harm nobody."""
    stopped, other = stage.open("s", "b"), stage.open("o")
    stage.feed("s", "abc")
    await until(lambda: stopped.is_done)
    stage.feed("s", "def")
    stage.feed("s", "", final=True)
    stage.feed("o", "x", final=True)
    await until(lambda: other.is_done)
    assert (stopped.text, other.text) == ("a", "x")
    assert stopped.texts[-1].num_tokens == 2
    for name in "so":
        stage.detokenizer.forget(name)


async def test_a_forgotten_sequence_gets_nothing_more(stage: Stage) -> None:
    """After `forget` the sink is silent, and forgetting and feeding again do nothing."""
    reader = stage.open("s")
    stage.feed("s", "a")
    await until(lambda: reader.text == "a")
    stage.detokenizer.forget("s")
    stage.detokenizer.forget("s")
    stage.feed("s", "b")
    other = stage.open("o")
    stage.feed("o", "x", final=True)
    await until(lambda: other.is_done)
    stage.detokenizer.forget("o")
    assert reader.text == "a"


async def test_a_name_can_be_used_again(stage: Stage) -> None:
    """The service forgets a sequence that was forgotten here."""
    for _ in range(2 * NUM_STREAMS):
        reader = stage.open("s", "zz")
        stage.feed("s", "az")
        await until(lambda r=reader: r.text == "a")
        stage.detokenizer.forget("s")
    reader = stage.open("s")
    stage.feed("s", "b", final=True)
    await until(lambda: reader.is_done)
    assert reader.text == "b"
    stage.detokenizer.forget("s")


async def test_a_service_that_restarts_is_not_noticed(stage: Stage) -> None:
    """Streams cut in the middle of sequences: each reader sees every character exactly once."""
    readers = {f"s{i}": stage.open(f"s{i}") for i in range(6)}
    for name in readers:
        stage.feed(name, "abc")
    await until(lambda: all(r.text == "abc" for r in readers.values()))
    await stage.service.kill()
    for name in readers:
        stage.feed(name, "def")
    await stage.service.start()
    await until(lambda: all(r.text == "abcdef" for r in readers.values()), 10)
    for name in readers:
        stage.feed(name, "ghi", final=True)
    await until(lambda: all(r.is_done for r in readers.values()))
    for name, reader in readers.items():
        assert reader.text == "abcdefghi"
        assert reader.texts[-1].num_tokens == 9
        stage.detokenizer.forget(name)


async def test_the_end_may_come_while_the_service_is_away(stage: Stage) -> None:
    """What was fed during an outage, a last piece and a stop string too, is answered after it."""
    ends, stops = stage.open("e"), stage.open("s", "yz")
    stage.feed("e", "ab")
    stage.feed("s", "xy")
    await until(lambda: ends.text == "ab" and stops.text == "x")
    await stage.service.kill()
    stage.feed("e", "c", final=True)
    stage.feed("s", "z")
    gone = stage.open("g")
    stage.feed("g", "lost")
    stage.detokenizer.forget("g")
    await stage.service.start()
    await until(lambda: ends.is_done and stops.is_done, 10)
    assert (ends.text, stops.text, gone.text) == ("abc", "x", "")
    for name in "es":
        stage.detokenizer.forget(name)


async def test_streams_that_break_again_and_again(stage: Stage) -> None:
    """Under steady feeding, kills at any moment neither end the task nor lose a character."""
    reader = stage.open("s")
    fed = ""
    for _ in range(4):
        for letter in LETTERS:
            stage.feed("s", letter)
            fed += letter
            await asyncio.sleep(0)
        await until(lambda: reader.text == fed, 10)  # noqa: B023 - awaited in the same turn
        killing = asyncio.create_task(stage.service.kill())
        while not killing.done():
            stage.feed("s", "x")
            fed += "x"
            await asyncio.sleep(0)
        await stage.service.start()
    stage.feed("s", "", final=True)
    await until(lambda: reader.is_done, 10)
    assert reader.text == fed
    stage.detokenizer.forget("s")


async def test_a_long_replay_goes_in_parts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than one message may carry comes whole, in several."""
    monkeypatch.setattr(detokenizer, "MAX_DELTA_TOKENS", 3)
    reader = stage.open("long")
    stage.feed("long", LETTERS, final=True)
    await until(lambda: reader.is_done)
    assert reader.text == LETTERS
    assert len(reader.texts) > 2
    stage.detokenizer.forget("long")


async def test_it_ends_whenever_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a stream to a service that is away has just broken, at any step of its end."""
    monkeypatch.setattr(detokenizer, "RECONNECT_S", 0)
    async with rpc.channel(f"127.0.0.1:{free_port()}") as channel:
        for num_turns in range(300):
            running = asyncio.create_task(Detokenizer(channel).run())
            for _ in range(num_turns % 60):
                await asyncio.sleep(0)
            running.cancel()
            done, _ = await asyncio.wait({running}, timeout=10)
            assert done, f"it goes on after {num_turns} turns of the loop"
