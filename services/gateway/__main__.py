"""`python -m services.gateway`: the HTTP edge as a process."""

import logging

import grpc

from mesh import rpc
from mesh.bus import Bus
from mesh.lifecycle import Lifecycle, run
from services import NAMES
from services.gateway.app import Services, build_app, serve
from services.gateway.clients.cache import GrpcCache
from services.gateway.clients.health import ServicePing
from services.gateway.clients.retriever import GrpcRetriever
from services.gateway.clients.tokenizer import GrpcTokenizer
from services.gateway.config import GatewaySettings
from services.gateway.generation.detokenizer import Detokenizer
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.fleet import Fleet
from services.gateway.http.probes import OptionalService

logger = logging.getLogger(__name__)


async def start(settings: GatewaySettings, lifecycle: Lifecycle) -> None:
    """Connect to the mesh, then listen."""
    bus = await Bus.connect(settings.nats_url, settings.service)
    lifecycle.stack.push_async_callback(bus.close)
    lifecycle.checks.add("bus", bus.ping)
    tokenizer = _channel(lifecycle, settings.tokenizer_url)
    lifecycle.checks.add("tokenizer", ServicePing(tokenizer))
    retriever = _channel(lifecycle, settings.retriever_url)
    cache = _channel(lifecycle, settings.cache_url)
    dispatcher = Dispatcher(settings.max_waiting, settings.max_waiting_tokens)
    services = Services(
        tokenizer=GrpcTokenizer(tokenizer),
        retriever=GrpcRetriever(retriever),
        cache=GrpcCache(cache),
        generator=await _start_fleet(lifecycle, bus, dispatcher, tokenizer),
        queue=dispatcher,
        optional={
            "retriever": OptionalService(ServicePing(retriever)),
            "cache": OptionalService(ServicePing(cache)),
        },
    )
    app = build_app(settings, lifecycle, services)
    port = await serve(lifecycle, app, settings.bind, settings.port)
    logger.info("HTTP on port %d", port)


async def _start_fleet(
    lifecycle: Lifecycle, bus: Bus, dispatcher: Dispatcher, tokenizer: grpc.aio.Channel
) -> Fleet:
    detokenizer = Detokenizer(tokenizer)
    fleet = Fleet(bus, dispatcher, detokenizer)
    await fleet.start()
    lifecycle.spawn(detokenizer.run(), "detokenizer")
    lifecycle.spawn(fleet.run(), "fleet")
    lifecycle.checks.add("generator", fleet.ping)
    return fleet


def _channel(lifecycle: Lifecycle, addresses: str) -> grpc.aio.Channel:
    channel = rpc.channel(addresses)
    lifecycle.stack.push_async_callback(channel.close)
    return channel


if __name__ == "__main__":
    run(GatewaySettings, start, NAMES)
