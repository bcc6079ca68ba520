"""Puts the rooms together: routes and the HTTP server."""

import time
from dataclasses import dataclass

from aiohttp import web

from mesh.lifecycle import Lifecycle
from services.gateway.access.admission import Admission
from services.gateway.access.keys import Authenticator
from services.gateway.api.documents import Documents
from services.gateway.api.openai.chat import ChatCompletions
from services.gateway.api.openai.completions import Completions
from services.gateway.api.openai.embeddings import Embeddings
from services.gateway.api.openai.errors import error_body, error_event
from services.gateway.api.openai.models import Models
from services.gateway.api.responder import Responder
from services.gateway.clients.retriever import GrpcRetriever
from services.gateway.config import GatewaySettings
from services.gateway.domain.ports import AdmissionQueue, AnswerCache, TextGenerator, Tokenizer
from services.gateway.http.cors import Cors
from services.gateway.http.limits import HttpLimits
from services.gateway.http.middleware import EXPOSED, Middleware
from services.gateway.http.probes import OptionalService, Probes
from services.gateway.http.server import GatewayRunner
from services.gateway.pipeline.pipeline import Pipeline
from services.gateway.pipeline.response_cache import ResponseCache
from services.gateway.pipeline.token_text import TokenText

# what a drain left over gets no more time
SHUTDOWN_S = 1.0
IDLE_CONNECTION_S = 75.0
MIDDLEWARE = web.AppKey("middleware", Middleware)


@dataclass(frozen=True, slots=True)
class Services:
    """The rest of the mesh; requests can do without the `optional` services.

    `queue` is where the generator's sequences wait.
    """

    tokenizer: Tokenizer
    retriever: GrpcRetriever
    cache: AnswerCache
    generator: TextGenerator
    queue: AdmissionQueue
    optional: dict[str, OptionalService]


def build_app(
    settings: GatewaySettings, lifecycle: Lifecycle, services: Services
) -> web.Application:
    """Return the application; its drain and its background work belong to the life cycle."""
    cache = ResponseCache(services.cache, settings.cache_timeout_s)
    authenticate = Authenticator(_keys(settings)).authenticate
    cors = Cors(settings.allowed_origins, EXPOSED)
    middleware = Middleware(lifecycle, authenticate, error_body, settings.request_timeout_s, cors)
    app = web.Application(middlewares=[middleware.wrap()])
    app[MIDDLEWARE] = middleware
    app.on_response_prepare.append(middleware.prepare)
    _add_generation(app, settings, services, cache)
    _add_models(app, Models(services.generator, settings.encoder_id, int(time.time())))
    embeddings = Embeddings(services.retriever, settings.encoder_id, settings.max_body_bytes)
    app.router.add_post("/v1/embeddings", embeddings.post)
    _add_documents(app, Documents(services.retriever, settings.max_document_bytes))
    _add_probes(app, Probes(lifecycle.checks, services.optional))
    for name, service in services.optional.items():
        lifecycle.checks.add(name, service.ping)
    lifecycle.on_drain(middleware.drain)
    lifecycle.on_drain(cache.drain)
    lifecycle.stack.push_async_callback(cache.close)
    return app


async def serve(lifecycle: Lifecycle, app: web.Application, host: str, port: int) -> int:
    """Start the server, which the life cycle stops; return its port."""
    middleware = app[MIDDLEWARE]
    runner = GatewayRunner(
        app,
        middleware.unread,
        middleware.guard,
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


def _add_generation(
    app: web.Application, settings: GatewaySettings, services: Services, cache: ResponseCache
) -> None:
    pipeline = Pipeline(
        Admission(services.queue),
        services.tokenizer,
        services.retriever,
        cache,
        services.generator,
        settings.min_answer_tokens,
        settings.retrieval_top_k,
    )
    limits = HttpLimits(settings.max_body_bytes, settings.keep_alive_s, settings.write_timeout_s)
    responder = Responder(pipeline, limits, error_event)
    token_text = TokenText(services.tokenizer)
    chat = ChatCompletions(responder, token_text, settings.default_max_tokens)
    text = Completions(responder, token_text, settings.default_completion_tokens)
    app.router.add_post("/v1/chat/completions", chat.post)
    app.router.add_post("/v1/completions", text.post)


def _add_models(app: web.Application, models: Models) -> None:
    app.router.add_get("/v1/models", models.index)
    app.router.add_get("/v1/models/{id:.+}", models.one)


def _add_documents(app: web.Application, documents: Documents) -> None:
    app.router.add_post("/v1/collections/{collection}/documents", documents.add)
    app.router.add_delete("/v1/collections/{collection}/documents", documents.delete)
    app.router.add_delete("/v1/collections/{collection}/documents/{document_id}", documents.delete)
    app.router.add_delete("/v1/collections/{collection}", documents.delete_collection)
    app.router.add_get("/v1/ingestions/{ingestion_id}", documents.ingestion)
    app.router.add_get("/v1/collections", documents.collections)


def _add_probes(app: web.Application, probes: Probes) -> None:
    app.router.add_get("/livez", probes.live)
    app.router.add_get("/readyz", probes.ready)
    # what vLLM and many balancers ask
    app.router.add_get("/health", probes.ready)
    app.router.add_get("/metrics", probes.metrics)
