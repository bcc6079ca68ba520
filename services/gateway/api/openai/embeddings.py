"""`POST /v1/embeddings`: one vector per text."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from mesh.errors import Code, MeshError, invalid
from services.gateway.api.fields import Fields, text, texts
from services.gateway.api.openai.options import IGNORED
from services.gateway.domain.errors import model_not_found
from services.gateway.domain.ports import Encoder
from services.gateway.http.body import read_json
from services.gateway.http.middleware import CONTEXT

MAX_INPUTS = 256


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to turn into vectors; `base64` asks for packed little-endian float32."""

    model: str
    texts: tuple[str, ...]
    base64: bool


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
        vectors, tokens = await self._encoder.embed(asked.texts, request[CONTEXT])
        if len(vectors) != len(asked.texts):
            raise MeshError(Code.INTERNAL, "The encoder answered for another number of texts.")
        data = [
            {"object": "embedding", "index": i, "embedding": _vector(values, asked.base64)}
            for i, values in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response(
            {"object": "list", "data": data, "model": self._encoder_id, "usage": usage}
        )


def read_embedding(body: Any) -> EmbeddingRequest:
    """Read a request's body; raises MeshError that names the field."""
    read = Fields(body)
    model = text("model", read.required("model"), low=1)
    value = read.required("input")
    if isinstance(value, str):
        inputs: tuple[str, ...] = (text("input", value, low=1),)
    else:
        inputs = texts("input", value, low=1, high=MAX_INPUTS)
    if not inputs:
        raise invalid("input", "input must not be empty.")
    encoding = read.choice("encoding_format", ("float", "base64"))
    read.only_default("dimensions")
    read.ignore(*IGNORED)
    read.finish()
    return EmbeddingRequest(model, inputs, encoding == "base64")


def _vector(values: Sequence[float], packed: bool) -> Any:
    if packed:
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return list(values)
