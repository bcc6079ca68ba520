"""Routes and the HTTP server. Handlers live in modules named by what they answer."""

import time
from dataclasses import dataclass

from aiohttp import web

from mesh.lifecycle import Lifecycle
from services.gateway.access.keys import Authenticator
from services.gateway.api.documents import Documents
from services.gateway.api.openai.completions import Completions, Pace
from services.gateway.api.openai.models import Models
from services.gateway.clients.retriever import GrpcRetriever
from services.gateway.config import GatewaySettings
from services.gateway.domain.generation import TextGenerator
from services.gateway.http.middleware import Edge, add_request_id
from services.gateway.http.probes import Helper, Probes
from services.gateway.pipeline.context_window import Tokenizer
from services.gateway.pipeline.pipeline import Limits, Pipeline
from services.gateway.pipeline.response_cache import AnswerCache, Answers

# what a drain left over gets no more time
SHUTDOWN_S = 1.0
IDLE_CONNECTION_S = 75.0


@dataclass(frozen=True, slots=True)
class Services:
    """The rest of the mesh; `helpers` are the services that requests can do without."""

    tokenizer: Tokenizer
    retriever: GrpcRetriever
    cache: AnswerCache
    generator: TextGenerator
    helpers: dict[str, Helper]


def build_app(
    settings: GatewaySettings, lifecycle: Lifecycle, services: Services
) -> web.Application:
    """The application; its drain and its background work belong to the life cycle."""
    answers = Answers(services.cache, settings.cache_timeout_s)
    limits = Limits(
        settings.default_max_tokens,
        settings.default_completion_tokens,
        settings.min_answer_tokens,
    )
    pipeline = Pipeline(services.tokenizer, services.retriever, answers, services.generator, limits)
    edge = Edge(lifecycle, Authenticator(_keys(settings)), settings.request_timeout_s)
    app = web.Application(middlewares=[edge.middleware()])
    app.on_response_prepare.append(add_request_id)
    pace = Pace(settings.max_body_bytes, settings.keep_alive_s, settings.write_timeout_s)
    _add_generation(app, Completions(pipeline, pace))
    _add_models(app, Models(services.generator, settings.encoder_id, int(time.time())))
    documents = Documents(
        services.retriever,
        encoder_id=settings.encoder_id,
        max_document_bytes=settings.max_document_bytes,
        max_body_bytes=settings.max_body_bytes,
    )
    _add_documents(app, documents)
    _add_probes(app, Probes(lifecycle.checks, services.helpers))
    for name, helper in services.helpers.items():
        lifecycle.checks.add(name, helper.ping)
    lifecycle.on_drain(edge.drain)
    lifecycle.on_drain(answers.drain)
    lifecycle.stack.push_async_callback(answers.close)
    return app


async def serve(lifecycle: Lifecycle, app: web.Application, host: str, port: int) -> int:
    """Starts the server, which the life cycle stops; returns its port."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=IDLE_CONNECTION_S,
    )
    await runner.setup()
    lifecycle.stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port, backlog=1024)
    await site.start()
    return int(runner.addresses[0][1])


def _keys(settings: GatewaySettings) -> dict[str, str]:
    if settings.auth == "off":
        return {}
    return {
        "dev": settings.dev_key.get_secret_value(),
        "admin": settings.admin_key.get_secret_value(),
    }


def _add_generation(app: web.Application, completions: Completions) -> None:
    app.router.add_post("/v1/chat/completions", completions.chat)
    app.router.add_post("/v1/completions", completions.text)


def _add_models(app: web.Application, models: Models) -> None:
    app.router.add_get("/v1/models", models.index)
    app.router.add_get("/v1/models/{id:.+}", models.one)


def _add_documents(app: web.Application, documents: Documents) -> None:
    app.router.add_post("/v1/collections/{collection}/documents", documents.add)
    app.router.add_get("/v1/ingestions/{ingestion_id}", documents.ingestion)
    app.router.add_get("/v1/collections", documents.collections)
    app.router.add_post("/v1/embeddings", documents.embeddings)


def _add_probes(app: web.Application, probes: Probes) -> None:
    app.router.add_get("/livez", probes.live)
    app.router.add_get("/readyz", probes.ready)
    app.router.add_get("/metrics", probes.metrics)
