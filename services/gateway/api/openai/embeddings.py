"""`POST /v1/embeddings`: one vector per input."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from mesh.errors import Code, MeshError, invalid
from services.gateway.api.fields import Fields, text, texts, wrong_type
from services.gateway.api.openai.options import IGNORED
from services.gateway.api.openai.sampling_fields import MAX_TOKENS, token_ids
from services.gateway.domain.embeddings import EmbeddingInputs
from services.gateway.domain.errors import model_not_found
from services.gateway.domain.ports import Encoder
from services.gateway.http.body import read_json
from services.gateway.http.middleware import CONTEXT

MAX_INPUTS = 2048
MAX_DIMENSIONS = 2**16


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What to turn into vectors; `base64` asks for packed little-endian float32.

    `dimensions` may only be those that the vectors have.
    """

    model: str
    inputs: EmbeddingInputs
    base64: bool
    dimensions: int | None = None


class Embeddings:
    """The endpoint; the encoder is known as `encoder_id`."""

    def __init__(self, encoder: Encoder, encoder_id: str, max_body_bytes: int) -> None:
        self._encoder = encoder
        self._encoder_id = encoder_id
        self._max_body_bytes = max_body_bytes

    async def post(self, request: web.Request) -> web.Response:
        """Answer with the vectors, in the order of their texts."""
        asked = read_embedding(await read_json(request, self._max_body_bytes))
        if asked.model != self._encoder_id:
            raise model_not_found(asked.model)
        embedded = await self._encoder.embed(asked.inputs, request[CONTEXT])
        if len(embedded.vectors) != len(asked.inputs):
            raise MeshError(Code.INTERNAL, "The encoder answered for another number of texts.")
        size = len(embedded.vectors[0])
        if asked.dimensions not in (None, size):
            raise invalid("dimensions", f"dimensions must be {size}, or absent, for this model.")
        data = [
            {"object": "embedding", "index": i, "embedding": _vector(values, asked.base64)}
            for i, values in enumerate(embedded.vectors)
        ]
        usage = {
            "prompt_tokens": embedded.num_tokens,
            "total_tokens": embedded.num_tokens,
            "prompt_tokens_details": {"truncated_tokens": embedded.num_truncated},
        }
        return web.json_response(
            {"object": "list", "data": data, "model": self._encoder_id, "usage": usage}
        )


def read_embedding(body: Any) -> EmbeddingRequest:
    """Read a request's body; raises MeshError that names the field."""
    read = Fields(body)
    model = text("model", read.required("model"), low=1)
    input_texts, input_ids = _inputs(read.required("input"))
    encoding = read.choice("encoding_format", ("float", "base64"))
    truncation, max_tokens = _truncation(read)
    dimensions = read.integer("dimensions", 1, MAX_DIMENSIONS)
    read.ignore(*IGNORED)
    read.finish()
    inputs = EmbeddingInputs(input_texts, input_ids, truncation, max_tokens)
    return EmbeddingRequest(model, inputs, encoding == "base64", dimensions)


def _inputs(value: Any) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Return texts, or lists of token ids."""
    if isinstance(value, str):
        return (text("input", value, low=1),), ()
    if not isinstance(value, list):
        raise wrong_type("input", "a string or a list", value)
    if not value:
        raise invalid("input", "input must not be empty.")
    if isinstance(value[0], list):
        if len(value) > MAX_INPUTS:
            raise invalid("input", f"input must have at most {MAX_INPUTS} entries.")
        return (), tuple(token_ids(f"input[{i}]", ids) for i, ids in enumerate(value))
    if isinstance(value[0], str):
        return texts("input", value, low=1, high=MAX_INPUTS), ()
    return (), (token_ids("input", value),)


def _truncation(read: Fields) -> tuple[Literal["start", "end"] | None, int]:
    """Return which end goes of an input that is too long, and how many tokens stay.

    `truncate` is TEI's and keeps the start; `truncate_prompt_tokens` is vLLM's and keeps the last
    tokens, -1 as many as the encoder reads.
    """
    truncate = read.boolean("truncate")
    most = read.integer("truncate_prompt_tokens", -1, MAX_TOKENS)
    if most == 0:
        raise invalid("truncate_prompt_tokens", "truncate_prompt_tokens must be -1 or above 0.")
    if most is not None:
        if truncate:
            raise invalid("truncate", "truncate contradicts truncate_prompt_tokens.")
        return "start", max(most, 0)
    return ("end" if truncate else None), 0


def _vector(values: Sequence[float], packed: bool) -> Any:
    if packed:
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return list(values)
