"""`python -m services.generator`: one engine, serving jobs from the bus and calls over gRPC."""

import asyncio
import logging
import uuid
from pathlib import Path

from mesh import rpc
from mesh.bus import Bus
from mesh.errors import CannotStartError
from mesh.lifecycle import Lifecycle, run
from mesh.pb import generator_pb2_grpc
from services.generator import wire
from services.generator.bridge import EngineBridge
from services.generator.config import GeneratorSettings
from services.generator.engine import Engine, EngineConfig, EngineConfigError
from services.generator.model import ModelError
from services.generator.servicer import GeneratorServicer
from services.generator.worker import Worker

log = logging.getLogger(__name__)


class EngineFailedError(Exception):
    """The engine's thread ended; its log has the reason."""


async def start(settings: GeneratorSettings, lifecycle: Lifecycle) -> None:
    """Loads the model, then opens the two ways in."""
    replica_id = uuid.uuid4().hex[:12]
    try:
        max_live = settings.max_sequences + settings.max_waiting
        bridge = await EngineBridge.load(lambda: Engine.load(_engine_config(settings)), max_live)
    except (ModelError, EngineConfigError, OSError) as error:
        raise CannotStartError(f"{settings.model}: {error}") from error
    failed = asyncio.Event()
    bridge.start(failed.set)
    lifecycle.stack.push_async_callback(bridge.close)
    lifecycle.checks.add("engine", bridge.ping)
    model = wire.model_info(Path(settings.model), settings.model_id, bridge.engine)

    bus = await Bus.connect(settings.nats_url, f"generator-{replica_id}")
    lifecycle.stack.push_async_callback(bus.close)
    lifecycle.checks.add("bus", bus.ping)
    worker = Worker(bus, bridge, model, replica_id)
    lifecycle.stack.push_async_callback(worker.close)
    await worker.start()

    servicer = GeneratorServicer(bridge, model, replica_id)
    await rpc.serve(
        lifecycle,
        f"{settings.bind}:{settings.port}",
        [lambda server: generator_pb2_grpc.add_GeneratorServicer_to_server(servicer, server)],
        ["mesh.v1.Generator"],
    )
    lifecycle.on_drain(worker.drain)
    lifecycle.spawn(worker.run(), "announcements")
    lifecycle.spawn(_watch(failed), "engine")
    log.info("serving %s revision %s as %s", model.id, model.revision, replica_id)


async def _watch(failed: asyncio.Event) -> None:
    await failed.wait()
    raise EngineFailedError


def _engine_config(settings: GeneratorSettings) -> EngineConfig:
    return EngineConfig(
        model=Path(settings.model),
        dtype=settings.dtype or None,
        max_num_seqs=settings.max_sequences,
        max_batched_tokens=settings.max_batched_tokens,
        kv_cache_bytes=settings.kv_cache_mb * 2**20 or None,
        target_step_s=settings.target_step_ms / 1000,
        num_threads=settings.threads or None,
        max_queued_tokens=settings.max_waiting_tokens or None,
    )


if __name__ == "__main__":
    run(GeneratorSettings, start)
