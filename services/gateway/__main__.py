"""`python -m services.gateway`: the HTTP edge as a process."""

import logging

import grpc

from mesh import rpc
from mesh.bus import Bus
from mesh.lifecycle import Lifecycle, run
from services.gateway.app import Services, build_app, serve
from services.gateway.clients.retriever import GrpcCache, GrpcRetriever, GrpcTokenizer, ServicePing
from services.gateway.config import GatewaySettings
from services.gateway.generation.wiring import build_fleet
from services.gateway.http.probes import Helper

log = logging.getLogger(__name__)


async def start(settings: GatewaySettings, lifecycle: Lifecycle) -> None:
    """Connects to the mesh, then listens."""
    bus = await Bus.connect(settings.nats_url, settings.service)
    lifecycle.stack.push_async_callback(bus.close)
    lifecycle.checks.add("bus", bus.ping)
    tokenizer = _channel(lifecycle, settings.tokenizer_url)
    lifecycle.checks.add("tokenizer", ServicePing(tokenizer))
    retriever = _channel(lifecycle, settings.retriever_url)
    cache = _channel(lifecycle, settings.cache_url)
    services = Services(
        tokenizer=GrpcTokenizer(tokenizer),
        retriever=GrpcRetriever(retriever),
        cache=GrpcCache(cache),
        generator=await build_fleet(settings, lifecycle, bus, tokenizer),
        helpers={
            "retriever": Helper(ServicePing(retriever)),
            "cache": Helper(ServicePing(cache)),
        },
    )
    app = build_app(settings, lifecycle, services)
    port = await serve(lifecycle, app, settings.bind, settings.port)
    log.info("HTTP on port %d", port)


def _channel(lifecycle: Lifecycle, addresses: str) -> grpc.aio.Channel:
    channel = rpc.channel(addresses)
    lifecycle.stack.push_async_callback(channel.close)
    return channel


if __name__ == "__main__":
    run(GatewaySettings, start)
