"""Processes end in every way; admitted streams do not, and the stack comes back."""

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.stack import Stack, wait

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

RECOVERY_LIMIT_S = 40.0
HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]


def connect(stack: Stack) -> openai.OpenAI:
    """A client without retries."""
    address = stack.address
    return openai.OpenAI(
        base_url=address.url + "/v1", api_key=address.key, max_retries=0, timeout=60
    )


def answers(stack: Stack) -> bool:
    """Whether a fresh request goes through the whole path."""
    try:
        with connect(stack) as client:
            model = client.models.list().data[0].id
            answer = client.chat.completions.create(
                model=model, messages=HELLO, max_tokens=4, extra_body={"cache": "no-store"}
            )
    except (openai.APIError, IndexError):
        return False
    return bool(answer.choices)


def long_stream(stack: Stack, tokens: int = 300) -> Iterator[str]:
    """Text chunks of a long answer."""
    with connect(stack) as client:
        model = client.models.list().data[0].id
        for chunk in client.chat.completions.create(
            model=model,
            messages=HELLO,
            max_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        ):
            if chunk.choices:
                yield chunk.choices[0].finish_reason or "more"


def test_two_generators_share_the_load(stack: Stack) -> None:
    """Requests at the same time go to both replicas."""
    threads = [threading.Thread(target=lambda: list(long_stream(stack, 60))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    sent = re.findall(
        r'^infermesh_gateway_jobs_sent_total\{replica="(\w+)"\} (\S+)$',
        stack.address.text("/metrics"),
        re.M,
    )
    assert len(sent) >= 2
    assert all(float(count) >= 2 for _, count in sent)


@pytest.mark.parametrize(
    "name",
    ["tokenizer", "cache", "retriever", "generator", "gateway", "redis-server", "nats-server"],
)
def test_recovers_from_kill_9(stack: Stack, name: str) -> None:
    """A killed process is started again and requests succeed as before."""
    wait(lambda: answers(stack), RECOVERY_LIMIT_S, stack.output)
    before = set(stack.pids(name))
    killed = stack.kill(name)
    wait(
        lambda: killed not in stack.pids(name) and len(stack.pids(name)) == len(before),
        RECOVERY_LIMIT_S,
        stack.output,
    )
    wait(lambda: stack.address.status("/readyz") == 200, RECOVERY_LIMIT_S, stack.output)
    wait(lambda: answers(stack), RECOVERY_LIMIT_S, stack.output)


def test_a_stream_survives_the_tokenizer(stack: Stack) -> None:
    """The text goes on where it was when the tokenizer comes back."""
    wait(lambda: answers(stack), RECOVERY_LIMIT_S, stack.output)
    chunks = long_stream(stack)
    next(chunks)
    stack.kill("tokenizer")
    assert list(chunks)[-1] == "length"


def test_sigterm_finishes_admitted_streams(tmp_path: Path) -> None:
    """On SIGTERM streams run to their end, then every process is gone."""
    stack = Stack(tmp_path)
    try:
        stack.wait_ready()
        children = psutil.Process(stack.process.pid).children(recursive=True)
        streams = [long_stream(stack, 200) for _ in range(4)]
        for stream in streams:
            next(stream)
        ends: list[str] = []
        readers = [threading.Thread(target=lambda s=s: ends.append(list(s)[-1])) for s in streams]
        stack.process.send_signal(signal.SIGTERM)
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(40)
        assert ends == ["length"] * 4
        assert stack.stop() == 0, stack.output()
        assert [child for child in children if child.is_running()] == []
    finally:
        stack.stop()
