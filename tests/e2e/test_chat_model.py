"""A real chat model, served from a GGUF file because it is here: the default."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from cli.models.catalogue import CHAT_MODEL, catalogue
from tests.e2e.stack import Stack
from tests.e2e.test_api import infermesh
from tests.tokenizer.gguf.vocabularies import chat_model

MODEL = chat_model()
pytestmark = pytest.mark.skipif(
    MODEL is None, reason="the chat model is not here: infermesh pull smollm2-135m-instruct"
)


HARBOUR = """The Penmarrow ferry leaves from the north pier at nine every morning.

The harbour office of Penmarrow lends life jackets to visitors without a fee.
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that nobody told which model to serve."""
    folder = tmp_path_factory.mktemp("chat-model")
    models = folder / "models" / CHAT_MODEL
    models.mkdir(parents=True)
    assert MODEL is not None
    (models / MODEL.name).symlink_to(MODEL)
    sampling = dict(catalogue()[CHAT_MODEL].sampling)
    (models / "generation_config.json").write_text(json.dumps(sampling))
    started = Stack(folder, INFERMESH_MODEL="", INFERMESH_MODELS=str(folder / "models"))
    try:
        started.wait_ready()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def client(stack: Stack) -> openai.OpenAI:
    """The official client."""
    address = stack.address
    return openai.OpenAI(base_url=f"{address.url}/v1", api_key=address.key, max_retries=0)


def ask(client: openai.OpenAI, question: str, **options: object) -> str:
    answer = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=60,
        **options,  # type: ignore[arg-type]
    )
    return answer.choices[0].message.content or ""


def test_it_is_served_under_its_name(stack: Stack, client: openai.OpenAI) -> None:
    """The catalogue's, without a word about another."""
    assert client.models.list().data[0].id == CHAT_MODEL
    assert "infermesh-tiny" not in stack.output()


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


@pytest.fixture(scope="module")
def collection(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A document that answers."""
    path: Path = tmp_path_factory.mktemp("documents") / "harbour.md"
    path.write_text(HARBOUR)
    done = infermesh(stack.address, "ingest", str(path), "--collection", "harbour")
    assert done.returncode == 0, done.stderr
    return "harbour"


@pytest.mark.parametrize("stream", [False, True])
def test_it_answers_from_a_document(client: openai.OpenAI, collection: str, stream: bool) -> None:
    """With the passage's number first, and the passage among the citations."""
    answer = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Where does the Penmarrow ferry leave from?"}],
        max_tokens=60,
        temperature=0,
        stream=stream,
        extra_body={"retrieval": {"collection": collection}, "cache": "no-store"},
    )
    if isinstance(answer, openai.Stream):
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        citations = (chunks[0].model_extra or {})["citations"]
    else:
        text = answer.choices[0].message.content or ""
        citations = (answer.model_extra or {})["citations"]
    assert text.startswith("[1] ") and "north pier" in text
    assert [each["source"] for each in citations] == ["harbour.md"]


def test_a_cached_answer_begins_as_the_first_did(client: openai.OpenAI, collection: str) -> None:
    """Byte for byte."""
    options = {"retrieval": {"collection": collection}}
    question = "What does the harbour office lend to visitors?"
    first, second = (ask(client, question, temperature=0, extra_body=options) for _ in range(2))
    assert first == second and first.startswith("[1]") and "life jackets" in first


def test_its_whole_context_is_served(client: openai.OpenAI) -> None:
    """8,192 tokens: a prompt of nearly so many is answered, a longer one refused."""
    text = "The sea was calm. " * 1_590
    usage = client.chat.completions.create(
        model=CHAT_MODEL, messages=[{"role": "user", "content": text}], max_tokens=4
    ).usage
    assert usage is not None and 7_900 < usage.prompt_tokens < 8_192
    with pytest.raises(openai.BadRequestError, match="8192") as caught:
        ask(client, text * 2)
    assert caught.value.code == "context_length_exceeded"
