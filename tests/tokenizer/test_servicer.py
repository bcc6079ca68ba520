"""The running service: every method, and the shape of every error."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from mesh.pb import tokenizer_pb2 as pb
from services.tokenizer.grounding import Grounding

from .conftest import CHATML, MakeFolder, Serve

Deltas = pb.DetokenizeRequest
Delta = pb.DetokenizeDelta
LIMIT_S = 5.0
NAMED = pb.ChatMessage(role="user", content="x", name="x" * 101)


async def call(method: Any, request: Any) -> Any:
    """One call as services make it: errors arrive as MeshError."""
    return await rpc.call(method, request, RequestContext.start(LIMIT_S))


async def ids_of(stub: Any, text: str) -> list[int]:
    """The ids of one text without special tokens."""
    reply = await call(stub.Encode, pb.EncodeRequest(texts=[text]))
    return list(reply.sequences[0].ids)


async def test_describe_names_the_model(make_folder: MakeFolder, serve: Serve) -> None:
    """What the other services must agree on."""
    stub, _ = await serve(make_folder(), model_id="renamed")
    reply = await call(stub.Describe, pb.DescribeTokenizerRequest())
    assert (reply.model.id, reply.model.context_length) == ("renamed", 512)
    assert (reply.model.vocab_size, list(reply.model.eos_token_ids)) == (1024, [2])
    assert len(reply.model.revision) == 16
    assert not reply.has_chat_template


async def test_encode_decode_and_count_agree(make_folder: MakeFolder, serve: Serve) -> None:
    """Texts come back whole, small ones inline and large ones through the pool."""
    stub, _ = await serve(make_folder())
    texts = ["the fox 🦊", "", "日本語 " * 5_000]
    encoded = await call(stub.Encode, pb.EncodeRequest(texts=texts, add_special_tokens=True))
    assert [sequence.ids[0] for sequence in encoded.sequences] == [1, 1, 1]
    request = pb.DecodeRequest(sequences=encoded.sequences, skip_special_tokens=True)
    assert list((await call(stub.Decode, request)).texts) == texts
    for text, sequence in zip(texts, encoded.sequences, strict=True):
        counted = await call(stub.Count, pb.CountRequest(text=text))
        assert counted.tokens == len(sequence.ids) - 1


async def test_chat_is_rendered_encoded_and_counted(make_folder: MakeFolder, serve: Serve) -> None:
    """The prompt's ids are those of its text, without a second begin token."""
    stub, _ = await serve(make_folder(chat_template=CHATML))
    chat = pb.EncodeChatRequest(
        messages=[pb.ChatMessage(role="user", content="hello 🦊")], add_generation_prompt=True
    )
    reply = await call(stub.EncodeChat, chat)
    assert reply.text == "<s>user\nhello 🦊</s>\n<s>assistant\n"
    assert list(reply.prompt.ids) == await ids_of(stub, reply.text)
    counted = await call(stub.Count, pb.CountRequest(chat=chat))
    assert counted.tokens == len(reply.prompt.ids)
    assert (await call(stub.Describe, pb.DescribeTokenizerRequest())).has_chat_template


async def test_a_chat_is_grounded_in_its_passages(make_folder: MakeFolder, serve: Serve) -> None:
    """In the model's own wording, be it in none; a chat that names none is left alone."""
    own = {"grounding.json": Grounding(user="{passages} {question}", answer_start="[").text()}
    stub, _ = await serve(make_folder(chat_template=CHATML, files=own))
    messages = [pb.ChatMessage(role="user", content="Why?")]
    chats = {
        passages: pb.EncodeChatRequest(
            messages=messages,
            add_generation_prompt=True,
            passages=None if passages is None else pb.Passages(texts=passages),
        )
        for passages in (("a", "b"), (), None)
    }
    replies = {passages: await call(stub.EncodeChat, chat) for passages, chat in chats.items()}
    head, tail = "<s>user\n", "Why?</s>\n<s>assistant\n"
    assert replies["a", "b"].text == f"{head}[1] a\n[2] b {tail}["
    assert replies["a", "b"].answer_start == "["
    assert list(replies["a", "b"].prompt.ids) == await ids_of(stub, replies["a", "b"].text)
    assert (replies[()].text, replies[()].answer_start) == (f"{head} {tail}", "")
    assert (replies[None].text, replies[None].answer_start) == (f"{head}{tail}", "")


def chat(role: str, content: str = "x") -> pb.EncodeChatRequest:
    """A chat of one message."""
    return pb.EncodeChatRequest(messages=[pb.ChatMessage(role=role, content=content)])


def grounded(*passages: str) -> pb.EncodeChatRequest:
    """A chat that is to be answered from passages."""
    return pb.EncodeChatRequest(messages=[pb.ChatMessage()], passages=pb.Passages(texts=passages))


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Encode", pb.EncodeRequest(texts=["x", "é" * 51]), "texts[1]"),
        ("Encode", pb.EncodeRequest(texts=["x" * 60, "x" * 60]), "texts"),
        ("Encode", pb.EncodeRequest(texts=["x"] * 2_049), "texts"),
        ("EncodeChat", pb.EncodeChatRequest(), "messages"),
        ("EncodeChat", chat("robot"), "messages[0].role"),
        ("EncodeChat", chat("user", "x" * 101), "messages[0].content"),
        ("EncodeChat", pb.EncodeChatRequest(messages=[NAMED]), "messages[0].name"),
        ("EncodeChat", pb.EncodeChatRequest(messages=[pb.ChatMessage()] * 2_049), "messages"),
        ("EncodeChat", grounded("x" * 101), "passages.texts[0]"),
        ("EncodeChat", grounded(*[""] * 2_049), "passages"),
        ("EncodeChat", chat("assistant"), "messages"),
        ("Count", pb.CountRequest(), "input"),
        ("Count", pb.CountRequest(text="x" * 101), "text"),
        ("Count", pb.CountRequest(chat=chat("robot")), "messages[0].role"),
        ("Decode", pb.DecodeRequest(sequences=[pb.TokenIds(ids=[1, 1024])]), "sequences[0].ids[1]"),
        ("Decode", pb.DecodeRequest(sequences=[pb.TokenIds()] * 2_049), "sequences"),
        ("Decode", pb.DecodeRequest(sequences=[pb.TokenIds(ids=[1] * (2**20 + 1))]), "sequences"),
        ("DescribeTokens", pb.DescribeTokensRequest(ids=[1, 1024]), "ids"),
        ("DescribeTokens", pb.DescribeTokensRequest(ids=[1] * (2**20 + 1)), "ids"),
        ("DescribeTokens", pb.DescribeTokensRequest(ids=[1], text="x" * 101), "text"),
    ],
)
async def test_bad_requests_name_their_field(
    make_folder: MakeFolder, serve: Serve, method: str, request_: Any, field: str
) -> None:
    """INVALID_ARGUMENT, the field, and a sentence that holds the field's name."""
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('users first') }}{% endif %}"
    stub, _ = await serve(make_folder(chat_template=template), max_text_bytes=100)
    with pytest.raises(MeshError) as caught:
        await call(getattr(stub, method), request_)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, field)
    assert field in caught.value.message


async def test_a_model_without_template_takes_no_messages(
    make_folder: MakeFolder, serve: Serve
) -> None:
    """FAILED_PRECONDITION, in words for the caller."""
    stub, _ = await serve(make_folder())
    with pytest.raises(MeshError, match="no chat template") as caught:
        await call(stub.EncodeChat, chat("user"))
    assert caught.value.code is Code.FAILED_PRECONDITION


class Stream:
    """One Detokenize call, driven step by step."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.Detokenize()

    async def step(self, *deltas: pb.DetokenizeDelta) -> list[tuple[str, str, str]]:
        """Sends one request and returns its response as (sequence, text, stop string)."""
        async with asyncio.timeout(LIMIT_S):
            await self.call.write(Deltas(deltas=deltas))
            reply = await self.call.read()
        assert all(delta.stopped == bool(delta.stop_string) for delta in reply.deltas)
        return [(delta.sequence_id, delta.text, delta.stop_string) for delta in reply.deltas]


async def test_detokenize_answers_each_request_once(make_folder: MakeFolder, serve: Serve) -> None:
    """Sequences are interleaved; those without news are left out of the response."""
    stub, _ = await serve(make_folder())
    stream = Stream(stub)
    fox = await ids_of(stub, "🦊")
    assert await stream.step() == []
    for token_id in fox[:-1]:
        assert await stream.step(Delta(sequence_id="a", token_ids=[token_id])) == []
    later = [
        Delta(sequence_id="b", token_ids=[*fox, 1023, 2]),
        Delta(sequence_id="a", token_ids=fox[-1:]),
    ]
    assert await stream.step(*later) == [("b", "🦊", ""), ("a", "🦊", "")]
    ending = [
        Delta(sequence_id="a", final=True),
        Delta(sequence_id="b", token_ids=fox[:1], final=True),
    ]
    assert await stream.step(*ending) == [("b", "\ufffd", "")]
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF


async def test_detokenize_stops_and_ignores_what_comes_late(
    make_folder: MakeFolder, serve: Serve
) -> None:
    """The stop string is cut or kept as asked; a stopped sequence stays silent."""
    stub, _ = await serve(make_folder())
    stream = Stream(stub)
    words = [await ids_of(stub, word) for word in ("the quick", " bro", "wn fox")]

    def deltas(step: int) -> Iterable[pb.DetokenizeDelta]:
        stop: dict[str, Any] = {"stop": ["brown"]} if step == 0 else {}
        yield Delta(sequence_id="cut", token_ids=words[step], **stop)
        yield Delta(sequence_id="kept", token_ids=words[step], include_stop=True, **stop)

    assert await stream.step(*deltas(0)) == [("cut", "the quick", ""), ("kept", "the quick", "")]
    assert await stream.step(*deltas(1)) == [("cut", " ", ""), ("kept", " bro", "")]
    assert await stream.step(*deltas(2)) == [("cut", "", "brown"), ("kept", "wn", "brown")]
    assert await stream.step(*deltas(1)) == []
    stream.call.cancel()


async def test_detokenize_describes_tokens_where_asked(
    make_folder: MakeFolder, serve: Serve
) -> None:
    """Each id comes with its bytes and its place, once its text is out; others get none."""
    stub, _ = await serve(make_folder())
    call = stub.Detokenize()
    fox = await ids_of(stub, "x🦊")
    asked = Delta(sequence_id="a", token_ids=[*fox[:-1]], describe_tokens=True, skip_prefix="x")
    await call.write(Deltas(deltas=[asked, Delta(sequence_id="b", token_ids=fox)]))
    described, plain = (await call.read()).deltas
    assert [(token.data, token.offset) for token in described.tokens] == [(b"", 0)]
    assert (plain.text, len(plain.tokens)) == ("x🦊", 0)
    await call.write(Deltas(deltas=[Delta(sequence_id="a", token_ids=[fox[-1], 2], final=True)]))
    [last] = (await call.read()).deltas
    assert last.text == "🦊"
    assert b"".join(token.data for token in last.tokens).decode() == "🦊"
    assert {token.offset for token in last.tokens[:-1]} == {0}
    assert (last.tokens[-1].name, last.tokens[-1].offset) == ("</s>", 1)
    call.cancel()


async def test_detokenize_holds_stop_strings_back_for_min_tokens(
    make_folder: MakeFolder, serve: Serve
) -> None:
    """A stop string that is complete too early stays in the text."""
    stub, _ = await serve(make_folder())
    stream = Stream(stub)
    word = await ids_of(stub, "x")
    first = Delta(sequence_id="s", token_ids=word * 3, stop=["x"], min_tokens=3)
    assert await stream.step(first) == [("s", "xxx", "")]
    assert await stream.step(Delta(sequence_id="s", token_ids=word)) == [("s", "", "x")]
    stream.call.cancel()


@pytest.mark.parametrize("num_repeats", [1, 2_000])
async def test_tokens_are_described(
    make_folder: MakeFolder, serve: Serve, num_repeats: int
) -> None:
    """By themselves, or in the text that they were made of; inline and through the pool."""
    stub, _ = await serve(make_folder())
    text = "the 🦊 " * num_repeats
    encoded = await call(stub.Encode, pb.EncodeRequest(texts=[text], add_special_tokens=True))
    ids = encoded.sequences[0].ids
    alone = await call(stub.DescribeTokens, pb.DescribeTokensRequest(ids=ids))
    assert b"".join(piece.data for piece in alone.pieces).decode() == text
    assert (alone.pieces[0].name, {piece.offset for piece in alone.pieces}) == ("<s>", {0})
    within = await call(stub.DescribeTokens, pb.DescribeTokensRequest(ids=ids, text=text))
    assert [piece.data for piece in within.pieces] == [piece.data for piece in alone.pieces]
    offsets = [piece.offset for piece in within.pieces]
    assert offsets[:2] == [0, 0]
    assert offsets == sorted(offsets)
    assert offsets[-1] == len(text) - 1


async def test_streams_share_nothing(make_folder: MakeFolder, serve: Serve) -> None:
    """The same sequence id on two streams is two sequences."""
    stub, _ = await serve(make_folder())
    fox = await ids_of(stub, "🦊")
    one, two = Stream(stub), Stream(stub)
    assert await one.step(Delta(sequence_id="s", token_ids=fox[:-1])) == []
    assert await two.step(Delta(sequence_id="s", token_ids=fox)) == [("s", "🦊", "")]
    assert await one.step(Delta(sequence_id="s", token_ids=fox[-1:])) == [("s", "🦊", "")]
    one.call.cancel()
    two.call.cancel()


@pytest.mark.parametrize(
    ("delta", "field"),
    [
        (Delta(sequence_id="s", stop=["x" * 1_025]), "deltas[0].stop"),
        (Delta(sequence_id="s", stop=["ok", ""]), "deltas[0].stop"),
        (Delta(sequence_id="s", stop=["x"] * 65), "deltas[0].stop"),
        (Delta(sequence_id="s", token_ids=[1] * (2**16 + 1)), "deltas[0].token_ids"),
        (Delta(sequence_id="s", skip_prefix="x" * 1_025), "deltas[0].skip_prefix"),
    ],
)
async def test_a_bad_delta_ends_the_stream(
    make_folder: MakeFolder, serve: Serve, delta: pb.DetokenizeDelta, field: str
) -> None:
    """The error names the field at fault."""
    stub, _ = await serve(make_folder())
    stream = Stream(stub)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.step(delta)
    error = rpc.translate(caught.value)
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, field)


async def test_draining_lets_sequences_end_and_takes_no_new_stream(
    make_folder: MakeFolder, serve: Serve
) -> None:
    """On SIGTERM a caller's sequences finish here, and its next stream goes elsewhere."""
    stub, lifecycle = await serve(make_folder())
    fox = await ids_of(stub, "🦊")
    stream = Stream(stub)
    await stream.step(Delta(sequence_id="s", token_ids=fox[:-1]))
    stopping = asyncio.create_task(lifecycle.until_stopped(LIMIT_S))
    lifecycle.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while True:  # refused from the moment when the drain begins
            refused = Stream(stub)
            await refused.step()
            refused.call.cancel()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not stopping.done()
    last = Delta(sequence_id="s", token_ids=fox[-1:], final=True)
    assert await stream.step(last) == [("s", "🦊", "")]
    assert await stream.call.read() is grpc.aio.EOF
    async with asyncio.timeout(LIMIT_S):
        await stopping


async def test_draining_ends_idle_streams(make_folder: MakeFolder, serve: Serve) -> None:
    """A caller without sequences here is told at once to open its stream elsewhere."""
    stub, lifecycle = await serve(make_folder())
    stream = Stream(stub)
    await stream.step(Delta(sequence_id="s", token_ids=[5], final=True))
    stopping = asyncio.create_task(lifecycle.until_stopped(LIMIT_S))
    lifecycle.stop()
    async with asyncio.timeout(LIMIT_S / 2):
        assert await stream.call.read() is grpc.aio.EOF
        assert await stream.call.code() is grpc.StatusCode.OK
        await stopping


async def test_a_caller_that_leaves_leaves_nothing(make_folder: MakeFolder, serve: Serve) -> None:
    """The state of a cancelled stream is gone, so a drain has nothing to wait for."""
    stub, lifecycle = await serve(make_folder())
    stream = Stream(stub)
    await stream.step(Delta(sequence_id="s", token_ids=[5]))
    stopping = asyncio.create_task(lifecycle.until_stopped(LIMIT_S))
    lifecycle.stop()
    stream.call.cancel()
    async with asyncio.timeout(LIMIT_S / 2):
        await stopping


async def test_a_generator_of_requests_works_too(make_folder: MakeFolder, serve: Serve) -> None:
    """The other way to use the stream: an async iterator in, an async iterator out."""
    stub, _ = await serve(make_folder())
    ids = await ids_of(stub, "the quick brown fox 🦊")

    async def requests() -> AsyncIterator[pb.DetokenizeRequest]:
        for token_id in ids:
            yield Deltas(deltas=[Delta(sequence_id="s", token_ids=[token_id])])
        yield Deltas(deltas=[Delta(sequence_id="s", final=True)])

    replies = [reply async for reply in stub.Detokenize(requests())]
    assert len(replies) == len(ids) + 1
    assert "".join(d.text for r in replies for d in r.deltas) == "the quick brown fox 🦊"
