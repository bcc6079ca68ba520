"""What importing a module brings along, in an interpreter that has imported nothing else.

The contracts of `pyproject.toml` follow import statements; only an interpreter runs the `__init__`
of every package on the way, and what libraries import in turn.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRANSPORTS = ("aiohttp", "grpc", "nats")
# a package stands for all its modules
ROWS = {
    "mesh": (
        ("mesh.context", "mesh.errors", "mesh.fair_queue", "mesh.mailbox"),
        TRANSPORTS,
    ),
    "gateway's domain": (("services.gateway.domain",), TRANSPORTS),
    "gateway's pipeline": (("services.gateway.pipeline",), TRANSPORTS),
    "gateway's access": (("services.gateway.access",), TRANSPORTS),
    "gateway's dispatch": (
        ("services.gateway.generation.dispatcher", "services.gateway.generation.frame_order"),
        (*TRANSPORTS, "google.protobuf"),
    ),
    "retriever": (
        (
            "services.retriever.chunk",
            "services.retriever.collections_store",
            "services.retriever.document",
            "services.retriever.encoder",
            "services.retriever.encoder_batcher",
            "services.retriever.extraction.extract",
            "services.retriever.folder",
            "services.retriever.index",
            "services.retriever.indexer",
            "services.retriever.store",
        ),
        (*TRANSPORTS, "torch", "sentence_transformers"),
    ),
    "cache": (("services.cache.keys",), (*TRANSPORTS, "redis")),
    "tokenizer": (
        (
            "services.tokenizer.chat",
            "services.tokenizer.checkpoint",
            "services.tokenizer.codec",
            "services.tokenizer.detokenize",
            "services.tokenizer.pieces",
            "services.tokenizer.stops",
            "services.tokenizer.workers",
        ),
        TRANSPORTS,
    ),
    "engine": (
        ("services.generator.engine",),
        (*TRANSPORTS, "numpy", "prometheus_client", "safetensors", "torch", "triton"),
    ),
    "model": (
        ("services.generator.model",),
        (*TRANSPORTS, "services.generator.backend", "services.generator.engine"),
    ),
    "cpu backend": (
        ("services.generator.backend.cpu",),
        (*TRANSPORTS, "services.generator.backend.gpu", "services.generator.serving"),
    ),
    "gpu backend": (
        ("services.generator.backend.gpu",),
        (*TRANSPORTS, "services.generator.backend.cpu", "services.generator.serving"),
    ),
    "kernels": (
        ("services.generator.backend.gpu.triton",),
        (
            *TRANSPORTS,
            "services.generator.backend.batch",
            "services.generator.backend.memory",
            "services.generator.backend.sampling",
            "services.generator.backend.gpu.device",
            "services.generator.backend.gpu.layers",
            "services.generator.backend.gpu.sampling",
            "services.generator.engine",
            "services.generator.model",
        ),
    ),
    "generator's mock model": (
        ("services.generator.backend.mock",),
        (*TRANSPORTS, "numpy", "prometheus_client", "safetensors", "torch", "triton"),
    ),
    "generator's serving": (
        (
            "services.generator.serving.bridge",
            "services.generator.serving.engine_thread",
            "services.generator.serving.histogram",
            "services.generator.serving.metric_definitions",
            "services.generator.serving.metrics",
            "services.generator.serving.outbox",
            "services.generator.serving.submission",
            "services.generator.serving.watchdog",
        ),
        (*TRANSPORTS, "prometheus_client", "torch"),
    ),
}
PROGRAM = """
import importlib, pkgutil, sys

names, forbidden = sys.argv[1].split(), sys.argv[2].split()
for name in names:
    path = getattr(importlib.import_module(name), "__path__", ())
    for module in pkgutil.walk_packages(path, f"{name}."):
        importlib.import_module(module.name)
print(*(name for name in forbidden if name in sys.modules))
"""


@pytest.mark.parametrize(("modules", "forbidden"), ROWS.values(), ids=ROWS)
def test_a_fresh_import_brings_no_transport(
    modules: tuple[str, ...], forbidden: tuple[str, ...]
) -> None:
    """Importing these modules alone imports nothing that they must not know."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, " ".join(modules), " ".join(forbidden)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
