"""`python -m services.generator`: one engine, serving jobs from the bus and calls over gRPC."""

import logging
import uuid
from pathlib import Path

from prometheus_client import REGISTRY

from mesh import rpc
from mesh.bus import Bus
from mesh.errors import CannotStartError
from mesh.lifecycle import Lifecycle, run
from mesh.pb import generator_pb2_grpc
from services import NAMES
from services.generator.config import GeneratorSettings, variable
from services.generator.engine import EngineConfigError
from services.generator.loading import cpu_labels, load_engine
from services.generator.model.errors import ModelError
from services.generator.serving import wire
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.collector import EngineCollector
from services.generator.serving.servicer import GeneratorServicer
from services.generator.serving.worker import Worker

logger = logging.getLogger(__name__)


async def start(settings: GeneratorSettings, lifecycle: Lifecycle) -> None:
    """Load the model, then open the two ways in."""
    replica_id = uuid.uuid4().hex[:12]
    try:
        config, mock = settings.engine_config(), settings.mock_config()
        max_live = config.max_num_seqs + settings.max_waiting
        bridge = await EngineBridge.load(
            lambda: load_engine(config, mock=mock), max_live, settings.wedged_s
        )
    except EngineConfigError as error:
        raise CannotStartError(f"{variable(error.field)}: {error.message}") from error
    except (ModelError, OSError) as error:
        raise CannotStartError(f"{settings.model}: {error}") from error
    lifecycle.stack.push_async_callback(bridge.close)
    lifecycle.checks.add("engine", bridge.ping)
    lifecycle.spawn(bridge.watchdog.run(), "watchdog")
    model = wire.model_info(Path(settings.model), settings.model_id, bridge.engine)
    labels = cpu_labels(config) if config.device == "cpu" and mock is None else {}
    collector = EngineCollector(bridge.metrics, model.id, bridge.engine.config, labels)
    REGISTRY.register(collector)
    lifecycle.stack.callback(REGISTRY.unregister, collector)

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
    lifecycle.spawn(bridge.watch(), "engine")
    logger.info("serving %s revision %s as %s", model.id, model.revision, replica_id)


if __name__ == "__main__":
    run(GeneratorSettings, start, NAMES)
