"""OpenAI's request bodies as typed values; a refusal names the field at fault.

Pure: takes decoded JSON. What depends on the model is for the pipeline to check.
"""

from dataclasses import dataclass
from typing import Any

from mesh.errors import invalid
from services.gateway.api import fields
from services.gateway.api.fields import Fields
from services.gateway.api.openai.sampling_fields import HARMLESS, Options, options, token_ids

MAX_MESSAGES = 4096
MAX_SEQUENCES = 128
MAX_INPUTS = 256

# what clients send back of an assistant's message that they received
_ASSISTANT_EXTRAS = ("refusal", "annotations", "audio", "tool_calls", "function_call", "citations")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Passages to answer from; `query` is None where the last user message asks."""

    collection: str
    top_k: int
    query: str | None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue."""

    messages: tuple[Message, ...]
    retrieval: Retrieval | None
    options: Options


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Prompts to continue: texts, or token ids where the caller tokenized."""

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    options: Options


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to turn into vectors; `base64` asks for packed little-endian float32."""

    model: str
    texts: tuple[str, ...]
    base64: bool


def chat(body: Any) -> ChatRequest:
    """Reads the body of `POST /v1/chat/completions`; raises MeshError that names the field."""
    read = Fields(body)
    messages = read.required("messages")
    if not isinstance(messages, list):
        raise fields.wrong_type("messages", "a list", messages)
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid("messages", f"messages must have 1 to {MAX_MESSAGES} entries.")
    turns = tuple(_message(m, f"messages[{i}]") for i, m in enumerate(messages))
    request = ChatRequest(turns, _retrieval(read), options(read, chat=True))
    read.finish()
    return request


def completion(body: Any) -> CompletionRequest:
    """Reads the body of `POST /v1/completions`; raises MeshError that names the field."""
    read = Fields(body)
    texts, ids = _prompts(read.required("prompt"))
    taken = options(read, chat=False)
    if (len(texts) + len(ids)) * taken.best_of > MAX_SEQUENCES:
        factor = "n" if taken.best_of == taken.n else "best_of"
        raise invalid("prompt", f"prompts times {factor} must be at most {MAX_SEQUENCES}.")
    read.finish()
    return CompletionRequest(texts, ids, taken)


def embedding(body: Any) -> EmbeddingRequest:
    """Reads the body of `POST /v1/embeddings`; raises MeshError that names the field."""
    read = Fields(body)
    model = fields.text("model", read.required("model"), low=1)
    value = read.required("input")
    if isinstance(value, str):
        texts: tuple[str, ...] = (fields.text("input", value, low=1),)
    else:
        texts = fields.texts("input", value, low=1, high=MAX_INPUTS)
    if not texts:
        raise invalid("input", "input must not be empty.")
    encoding = read.choice("encoding_format", ("float", "base64"))
    read.neutral("dimensions")
    read.ignore(*HARMLESS)
    read.finish()
    return EmbeddingRequest(model, texts, encoding == "base64")


def _message(value: Any, path: str) -> Message:
    read = Fields(value, path)
    role = fields.text(f"{path}.role", read.required("role"))
    if role not in _ROLES:
        listed = ", ".join(f"`{r}`" for r in _ROLES)
        raise invalid(f"{path}.role", f"{path}.role must be one of {listed}.")
    content = _content(read.required("content"), f"{path}.content")
    name = read.text("name", high=256) or ""
    if role == "assistant":
        for extra in _ASSISTANT_EXTRAS:
            read.neutral(extra)
    read.finish()
    return Message(_ROLES[role], content, name)


def _content(value: Any, path: str) -> str:
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise fields.wrong_type(path, "a string or a list of parts", value)
        return fields.text(path, value)
    texts = []
    for i, entry in enumerate(value):
        part = Fields(entry, f"{path}[{i}]")
        kind = fields.text(part.name("type"), part.required("type"))
        if kind != "text":
            raise invalid(part.name("type"), f"{part.name('type')} must be `text`.")
        texts.append(fields.text(part.name("text"), part.required("text")))
        part.finish()
    return "".join(texts)


def _retrieval(read: Fields) -> Retrieval | None:
    value = read.take("retrieval")
    if value is None:
        return None
    inner = Fields(value, "retrieval")
    collection = fields.text(inner.name("collection"), inner.required("collection"), low=1)
    top_k = inner.integer("top_k", 1, 100)
    query = inner.text("query", low=1)
    inner.finish()
    return Retrieval(collection, 4 if top_k is None else top_k, query)


def _prompts(value: Any) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    if isinstance(value, str):
        return (fields.text("prompt", value, low=1),), ()
    if not isinstance(value, list):
        raise fields.wrong_type("prompt", "a string or a list", value)
    if not value:
        raise invalid("prompt", "prompt must not be empty.")
    if isinstance(value[0], str):
        return fields.texts("prompt", value, low=1, high=MAX_SEQUENCES), ()
    if isinstance(value[0], list):
        if len(value) > MAX_SEQUENCES:
            raise invalid("prompt", f"prompt must have at most {MAX_SEQUENCES} entries.")
        return (), tuple(token_ids(f"prompt[{i}]", ids) for i, ids in enumerate(value))
    return (), (token_ids("prompt", value),)
