"""`GET /v1/models`: what the replicas serve, then the encoder."""

from typing import Any

from aiohttp import web

from services.gateway.domain.errors import model_not_found
from services.gateway.domain.ports import TextGenerator


class Models:
    """Lists chat models first, so that clients which take the first one can chat."""

    def __init__(self, generator: TextGenerator, encoder_id: str, created: int) -> None:
        self._generator = generator
        self._encoder_id = encoder_id
        self._created = created

    async def index(self, request: web.Request) -> web.Response:
        """List all models."""
        return web.json_response({"object": "list", "data": self._cards()})

    async def one(self, request: web.Request) -> web.Response:
        """Answer with one model by its name."""
        wanted = request.match_info["id"]
        for card in self._cards():
            if card["id"] == wanted:
                return web.json_response(card)
        raise model_not_found(wanted)

    def _cards(self) -> list[dict[str, Any]]:
        cards = [
            self._card(model.id, context_length=model.context_length, revision=model.revision)
            for model in sorted(self._generator.models(), key=lambda model: model.id)
        ]
        return [*cards, self._card(self._encoder_id)]

    def _card(self, name: str, **facts: int | str) -> dict[str, Any]:
        created = self._created
        return {"id": name, "object": "model", "created": created, "owned_by": "infermesh", **facts}
