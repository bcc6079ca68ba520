"""The HTTP surface of a really running stack, driven by the official client and the command."""

import json
import os
import re
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.stack import ROOT, Address, wait

pytestmark = pytest.mark.e2e

HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
LIGHTHOUSE = (
    "The Varnholt lighthouse was built in 1871. Its lamp is made of brass. "
    "The keeper of the Varnholt lighthouse is Ilse Brandmoor."
)


def infermesh(
    address: Address, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the command as a client of the stack."""
    environ = {
        **os.environ,
        "INFERMESH_URL": address.url,
        "INFERMESH_API_KEY": address.key,
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env=environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_lists_chat_models_before_the_encoder(client: openai.OpenAI) -> None:
    """The first model is one that chats; the last is the encoder."""
    ids = [model.id for model in client.models.list()]
    assert ids[-1] == "all-MiniLM-L6-v2"
    assert len(ids) >= 2


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_need_no_key(address: Address, path: str) -> None:
    """Operators' endpoints answer without a key."""
    assert address.status(path) == 200


def test_chats(client: openai.OpenAI, model: str) -> None:
    """A greeting gets an answer, a finish reason and token counts that add up."""
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=40, temperature=0
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_what_the_plain_answer_says(client: openai.OpenAI, model: str) -> None:
    """The chunks of a greedy stream join to the plain answer; usage comes last."""
    fresh = {"cache": "no-store"}
    plain = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=40, temperature=0, extra_body=fresh
    )
    stream = client.chat.completions.create(
        model=model,
        messages=HELLO,
        max_tokens=40,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=fresh,
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert plain.usage
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_completes_text_lists_and_token_ids(client: openai.OpenAI, model: str) -> None:
    """A prompt may be a string, several strings or token ids."""
    one = client.completions.create(model=model, prompt="The harbour", max_tokens=8, temperature=0)
    assert one.choices[0].text
    two = client.completions.create(
        model=model, prompt=["The harbour", "A garden"], max_tokens=8, temperature=0
    )
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].text == one.choices[0].text
    ids = client.completions.create(model=model, prompt=[40, 50, 60], max_tokens=4, temperature=0)
    assert ids.usage
    assert ids.usage.prompt_tokens == 3


def test_a_completion_streams(client: openai.OpenAI, model: str) -> None:
    """Completions stream too."""
    stream = client.completions.create(
        model=model, prompt="The harbour", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


@pytest.mark.parametrize("width", [1, 4])
def test_text_is_that_of_transformers(client: openai.OpenAI, model: str, width: int) -> None:
    """Through HTTP, gRPC and the bus comes what transformers generates from the same folder.

    Greedily, and as the two best of a beam search.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "models" / model
    if not folder.exists():
        pytest.skip("the stack under test serves a model that is not in this repository")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        outputs = reference.generate(
            **ids, max_new_tokens=24, do_sample=False, num_beams=width,
            num_return_sequences=min(2, width), early_stopping="never" if width > 1 else None,
        )  # fmt: skip
    starts = outputs[:, ids["input_ids"].shape[1] :]
    search = {"use_beam_search": True, "best_of": width} if width > 1 else {}
    answer = client.chat.completions.create(
        model=model,
        messages=HELLO,
        n=min(2, width),
        max_tokens=24,
        temperature=0,
        extra_body={"cache": "no-store", **search},
    )
    texts = tokenizer.batch_decode(starts, skip_special_tokens=True)
    # the template writes a blank before an assistant's text, which is no part of it
    assert [" " + (choice.message.content or "") for choice in answer.choices] == texts


@pytest.mark.parametrize("key", ["", "sk-wrong"])
def test_refuses_without_the_right_key(address: Address, key: str) -> None:
    """No key and a wrong key are 401 in OpenAI's shape."""
    request = urllib.request.Request(address.url + "/v1/models")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 401
    error = json.loads(refused.value.read())["error"]
    assert error["type"] == "authentication_error"
    assert error["message"]


BAD = [
    ({"model": "nobody"}, "model"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": "word " * 5000}]}, "messages"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"stop": 7}, "stop"),
    ({"retrieval": {"collection": "no-such-collection"}}, "collection"),
    ({"frobnicate": True}, "frobnicate"),
]


@pytest.mark.parametrize(("change", "field"), BAD)
def test_bad_input_names_its_field(
    client: openai.OpenAI, model: str, change: dict[str, Any], field: str
) -> None:
    """Each mistake is a 4xx whose `param` and message say where it is."""
    body = {"model": model, "messages": HELLO, **change}
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", body=body, cast_to=object)
    assert 400 <= refused.value.status_code < 500
    error: Any = refused.value.body
    assert field in error["param"]
    assert "Traceback" not in error["message"]


def test_broken_json_is_refused(address: Address) -> None:
    """A body that is no JSON is 400."""
    request = urllib.request.Request(
        address.url + "/v1/chat/completions",
        data=b"{nonsense",
        headers={"Authorization": f"Bearer {address.key}"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 400
    assert json.loads(refused.value.read())["error"]["type"] == "invalid_request_error"


def test_answers_from_ingested_documents(
    address: Address, client: openai.OpenAI, model: str, tmp_path: Path
) -> None:
    """What `infermesh ingest` took in is cited by file name in the answer."""
    collection = f"docs-{uuid.uuid4().hex[:8]}"
    (tmp_path / "lighthouse.md").write_text(f"# Varnholt\n\n{LIGHTHOUSE}\n")
    (tmp_path / "bakery.txt").write_text("The Ostrel bakery opened in 1990. It sells rye bread.")
    (tmp_path / "garden.html").write_text(
        "<html><body><p>The Pellworth garden has forty roses.</p></body></html>"
    )
    done = infermesh(address, "ingest", str(tmp_path), "--collection", collection)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "When was the Varnholt lighthouse built?"}],
        temperature=0,
        extra_body={"retrieval": {"collection": collection, "top_k": 4}},
    )
    citations = answer.model_dump()["citations"]
    assert citations[0]["source"] == "lighthouse.md"
    assert set(citations[0]) == {"id", "source", "score", "start", "end"}
    assert "1871" in (answer.choices[0].message.content or "")


def test_the_second_equal_request_is_a_hit(client: openai.OpenAI, model: str) -> None:
    """miss, then hit with the same bytes, in the stream form with the same usage."""
    question: Any = [{"role": "user", "content": f"Tell me about the sea. {uuid.uuid4().hex[:6]}"}]

    def ask(**more: Any) -> Any:
        return client.chat.completions.with_raw_response.create(
            model=model, messages=question, max_tokens=24, temperature=0, **more
        )

    first = ask()
    assert first.headers["x-infermesh-cache"] == "miss"

    def hit() -> bool:
        return ask().headers["x-infermesh-cache"] == "hit"

    wait(hit, 5)
    second = ask()
    assert second.parse().choices[0].message.content == first.parse().choices[0].message.content
    assert second.parse().usage == first.parse().usage
    streamed = ask(stream=True, stream_options={"include_usage": True})
    assert streamed.headers["x-infermesh-cache"] == "hit"
    chunks = list(streamed.parse())
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == first.parse().choices[0].message.content
    assert chunks[-1].usage.completion_tokens == first.parse().usage.completion_tokens


@pytest.mark.parametrize(
    "more",
    [
        {"extra_headers": {"Cache-Control": "no-store"}},
        {"extra_headers": {"Cache-Control": "no-cache"}},
        {"extra_body": {"cache": "no-store"}},
        {"temperature": 0.7},
    ],
)
def test_the_cache_is_passed_by_on_request(
    client: openai.OpenAI, model: str, more: dict[str, Any]
) -> None:
    """Headers, the body's field and sampling keep a request out of the cache."""
    options = {"temperature": 0, **more}
    for _ in range(2):
        answer = client.chat.completions.with_raw_response.create(
            model=model, messages=HELLO, max_tokens=8, **options
        )
        assert answer.headers["x-infermesh-cache"] == "bypass"


def test_stop_strings_end_the_text(client: openai.OpenAI, model: str) -> None:
    """The text ends before the stop string, wherever tokens part it."""
    plain = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=40, temperature=0
    )
    text = plain.choices[0].message.content or ""
    stop = text[5:9]
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=40, temperature=0, stop=[stop]
    )
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI, model: str) -> None:
    """Equal seeds give equal texts at a temperature."""
    texts = {
        client.chat.completions.create(
            model=model, messages=HELLO, max_tokens=16, temperature=1.0, seed=11
        )
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) == 1


def test_a_client_that_leaves_frees_its_place(
    client: openai.OpenAI, model: str, address: Address
) -> None:
    """After a stream is closed midway no job of it runs."""
    stream = client.chat.completions.create(
        model=model,
        messages=HELLO,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()

    def idle() -> bool:
        found = re.search(r"^infermesh_gateway_running_jobs (\S+)$", address.text("/metrics"), re.M)
        return found is not None and float(found.group(1)) == 0

    wait(idle, 5)


def test_the_terminal_chat_streams(address: Address) -> None:
    """`infermesh chat` answers what it reads and ends with its input."""
    done = infermesh(address, "chat", stdin="Hello!\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10


def test_scores_tell_what_a_prompt_is_worth(client: openai.OpenAI, model: str) -> None:
    """An echoed prompt and its answer have one log-probability per token, alternatives included."""
    answer = client.completions.create(
        model=model,
        prompt="Hello! Who are you?",
        echo=True,
        logprobs=3,
        max_tokens=6,
        temperature=0,
        extra_body={"ignore_eos": True, "repetition_penalty": 1.2},
    )
    [choice] = answer.choices
    told = choice.logprobs
    assert told is not None and told.token_logprobs is not None and told.top_logprobs is not None
    assert choice.text.startswith("Hello! Who are you?")
    assert answer.usage is not None and len(told.token_logprobs) == answer.usage.total_tokens
    assert told.token_logprobs[0] is None
    assert all(value <= 0 for value in told.token_logprobs[1:])
    assert all(3 <= len(alternatives) <= 4 for alternatives in told.top_logprobs[1:])


def test_allowed_tokens_are_the_only_ones(client: openai.OpenAI, model: str) -> None:
    """An answer from a few allowed ids holds their texts alone, in each of n seeded choices."""
    allowed = list(range(300, 316))
    told = client.completions.create(
        model=model, prompt=[[i] for i in allowed], echo=True, logprobs=0, max_tokens=1
    )
    texts = {one.logprobs.tokens[0] for one in told.choices if one.logprobs and one.logprobs.tokens}
    assert len(texts) > 1
    answer = client.chat.completions.create(
        model=model,
        messages=HELLO,
        n=3,
        seed=5,
        max_tokens=8,
        logprobs=True,
        top_logprobs=1,
        temperature=2,
        extra_body={"allowed_token_ids": allowed, "ignore_eos": True},
    )
    drawn = []
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        drawn.append([one.token for one in choice.logprobs.content])
        assert (
            bytes(b for one in choice.logprobs.content for b in one.bytes or ())
            == (choice.message.content or "").encode()
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    # an answer's first token is told without the blank that the template writes there
    assert {token for tokens in drawn for token in tokens[1:]} <= texts
    assert {tokens[0] for tokens in drawn} <= texts | {text.removeprefix(" ") for text in texts}
    assert len({tuple(tokens) for tokens in drawn}) > 1
