"""A real file served by `infermesh up --model FILE.gguf`."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.stack import Stack

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A stack of its own; SmolLM2's with exact rows.

    With rows of eight bits it answers as llama.cpp does, which is wrong: three tokens are a tie.
    """
    environ = {} if "gemma" in model.name else {"INFERMESH_GENERATOR_EXACT": "true"}
    stack = Stack(tmp_path_factory.mktemp("served"), "--model", str(model), **environ)
    try:
        stack.wait_ready()
        address = stack.address
        yield openai.OpenAI(base_url=f"{address.url}/v1", api_key=address.key, max_retries=0)
    finally:
        stack.stop()


def test_an_answer_streams(client: openai.OpenAI, model: Path) -> None:
    """Piece by piece, under the file's name, and right."""
    assert client.models.list().data[0].id == model.stem
    if "gemma" in model.name:
        pieces = completion(client, model.stem, f"Question: {QUESTION}\nAnswer:")
    else:
        pieces = chat(client, model.stem)
    assert "Paris" in "".join(pieces) and len(pieces) > 2


def test_a_base_model_takes_no_chat(client: openai.OpenAI, model: Path) -> None:
    """The refusal says what it takes."""
    if "gemma" not in model.name:
        pytest.skip("a chat model")
    with pytest.raises(openai.ConflictError, match="no chat template"):
        chat(client, model.stem)


def completion(client: openai.OpenAI, name: str, prompt: str) -> list[str]:
    """Return the pieces of a streamed completion."""
    chunks = client.completions.create(
        model=name, prompt=prompt, max_tokens=16, temperature=0, stream=True
    )
    return [text for chunk in chunks for choice in chunk.choices if (text := choice.text)]


def chat(client: openai.OpenAI, name: str) -> list[str]:
    """Return the pieces of a streamed answer."""
    chunks = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=40,
        temperature=0,
        stream=True,
    )
    return [text for chunk in chunks for each in chunk.choices if (text := each.delta.content)]
