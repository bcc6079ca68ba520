"""Errors across a call: what survives the wire and what must not cross it."""

from typing import Any

import grpc
import pytest

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import Code, MeshError, invalid, unavailable
from mesh.pb import generator_pb2 as pb
from mesh.pb import generator_pb2_grpc as pb_grpc
from tests.mesh.rpc.pair import DESCRIBE, Pair, failure


async def test_errors_keep_field_and_retry(pair: Pair) -> None:
    """Code, message, field and the time to retry survive the wire."""
    pair.one.fault = invalid("top_k", "top_k must be at most 100 (größer, 日本).")
    error = await failure(pair)
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "top_k")
    assert error.message == "top_k must be at most 100 (größer, 日本)."
    assert error.retry_after_s is None
    pair.one.fault = MeshError(Code.RESOURCE_EXHAUSTED, "Full.", retry_after_s=1.5)
    error = await failure(pair)
    assert (error.code, error.retry_after_s, error.field) == (Code.RESOURCE_EXHAUSTED, 1.5, None)


@pytest.mark.parametrize("code", [c for c in Code if c is not Code.UNAVAILABLE])
async def test_every_code_survives(pair: Pair, code: Code) -> None:
    """What the servicer raises is what the caller gets."""
    pair.one.fault = MeshError(code, "Words.")
    error = await failure(pair)
    assert (error.code, error.message) == (code, "Words.")


async def test_an_unknown_exception_is_internal(pair: Pair) -> None:
    """Neither class nor text of a fault crosses the wire, to any client."""
    pair.one.fault = ValueError("password=secret")
    error = await failure(pair)
    assert (error.code, error.message) == (Code.INTERNAL, "Internal error.")
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await pair.first.Describe(DESCRIBE)
    assert raw.value.details() == "Internal error."
    text = f"{raw.value!r} {raw.value.trailing_metadata()} {raw.value.debug_error_string()}"
    assert "secret" not in text
    assert "ValueError" not in text


async def test_errors_inside_a_stream(pair: Pair) -> None:
    """A stream gives what came before the fault, then the mapped error."""
    count = 0
    for fault, code in (
        (unavailable("Gone."), Code.UNAVAILABLE),
        (RuntimeError("secret"), Code.INTERNAL),
    ):
        pair.one.fault = fault
        with pytest.raises(MeshError) as error:
            async for _ in rpc.stream(
                pair.first.Generate, pb.GenerateRequest(), RequestContext.start(10)
            ):
                count += 1
        assert error.value.code is code
        assert "secret" not in error.value.message
    assert count == 4
    assert pair.one.calls == 2, "a started stream is never retried"


async def test_foreign_texts_are_not_kept() -> None:
    """An error that our own edge did not write gets a generic text."""
    async with rpc.channel("127.0.0.1:1") as channel:
        stub: Any = pb_grpc.GeneratorStub(channel)
        with pytest.raises(MeshError) as error:
            await rpc.call(stub.Describe, DESCRIBE, RequestContext.start(5))
    assert error.value.code is Code.UNAVAILABLE
    assert "127.0.0.1" not in error.value.message


async def test_a_method_that_is_missing_is_unimplemented(pair: Pair) -> None:
    """A caller of a newer contract is told so."""
    async with rpc.channel(f"127.0.0.1:{pair.ports[0]}") as channel:
        method: Any = channel.unary_unary("/mesh.v1.Generator/Later")
        with pytest.raises(MeshError) as error:
            await rpc.call(method, b"", RequestContext.start(5))
    assert error.value.code is Code.UNIMPLEMENTED
