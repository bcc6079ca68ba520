"""Puts the generator stage together: bus, dispatch, frames and text."""

import grpc

from mesh.bus import Bus
from mesh.lifecycle import Lifecycle
from services.gateway.config import GatewaySettings
from services.gateway.generation.detokenizer import Detokenizer
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.fleet import Fleet


async def build_fleet(
    settings: GatewaySettings, lifecycle: Lifecycle, bus: Bus, tokenizer: grpc.aio.Channel
) -> Fleet:
    """A running fleet that ends with the process; its ping says whether a replica is there."""
    detokenizer = Detokenizer(tokenizer)
    dispatcher = Dispatcher(settings.max_waiting, settings.max_waiting_tokens)
    fleet = Fleet(bus, dispatcher, detokenizer)
    await fleet.start()
    lifecycle.spawn(detokenizer.run(), "detokenizer")
    lifecycle.spawn(fleet.run(), "fleet")
    lifecycle.checks.add("generator", fleet.ping)
    return fleet
