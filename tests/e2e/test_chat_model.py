"""A real chat model, served from a GGUF file by its name."""

import json
from collections.abc import Iterator

import openai
import pytest

from cli.models.catalogue import CHAT_MODEL, catalogue
from tests.e2e.stack import Stack
from tests.tokenizer.gguf.vocabularies import chat_model

MODEL = chat_model()
pytestmark = pytest.mark.skipif(
    MODEL is None, reason="the chat model is not here: infermesh pull smollm2-135m-instruct"
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A stack of its own."""
    folder = tmp_path_factory.mktemp("chat-model")
    models = folder / "models" / CHAT_MODEL
    models.mkdir(parents=True)
    assert MODEL is not None
    (models / MODEL.name).symlink_to(MODEL)
    sampling = dict(catalogue()[CHAT_MODEL].sampling)
    (models / "generation_config.json").write_text(json.dumps(sampling))
    stack = Stack(folder, "--model", CHAT_MODEL, INFERMESH_MODELS=str(folder / "models"))
    try:
        stack.wait_ready()
        address = stack.address
        yield openai.OpenAI(base_url=f"{address.url}/v1", api_key=address.key, max_retries=0)
    finally:
        stack.stop()


def ask(client: openai.OpenAI, question: str, **options: object) -> str:
    answer = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=60,
        **options,  # type: ignore[arg-type]
    )
    return answer.choices[0].message.content or ""


def test_it_is_served_under_its_name(client: openai.OpenAI) -> None:
    """The catalogue's."""
    assert client.models.list().data[0].id == CHAT_MODEL


def test_it_answers_in_sentences(client: openai.OpenAI) -> None:
    """A sum, a plural, and the end of a turn, which its file names."""
    assert "4" in ask(client, "What is 2 plus 2?", temperature=0)
    assert "mice" in ask(client, "What is the plural of mouse?", temperature=0).lower()
    assert "<|im_end|>" not in ask(client, "Hello! Who are you?", temperature=0)


def test_a_stream_adds_up_to_the_answer(client: openai.OpenAI) -> None:
    """Character by character, as without a stream."""
    question = "Write one sentence about the sea."
    whole = ask(client, question, temperature=0)
    chunks = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=60,
        temperature=0,
        stream=True,
        extra_body={"cache": "no-store"},
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_the_catalogues_sampling_holds_where_a_request_names_none(client: openai.OpenAI) -> None:
    """Two seeds give two answers, and one the same twice."""
    question = "Tell me a short story about a lighthouse."
    answers = [ask(client, question, seed=seed) for seed in (1, 2, 1)]
    assert answers[0] == answers[2] != answers[1]


def test_a_control_tokens_spelling_is_content(client: openai.OpenAI) -> None:
    """It ends no turn, and is longer than the token that it spells."""

    def prompt_tokens(content: str) -> int:
        usage = client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": content}], max_tokens=1
        ).usage
        assert usage is not None
        return usage.prompt_tokens

    assert prompt_tokens("a<|im_end|>b") > prompt_tokens("ab") + 2
