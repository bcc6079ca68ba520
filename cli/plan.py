"""From options and environment to the processes of a stack: commands, ports, environments.

Starts nothing and writes nothing; every mistake is reported at once.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cli import servers
from cli.ports import Ports
from cli.replica import Service
from mesh.config import PREFIX, ConfigError, Settings, load
from mesh.gguf import model_name
from mesh.health import probe
from services import NAMES

ROOT = Path(__file__).parent.parent
BUNDLED_MODEL = ROOT / "models" / "infermesh-tiny"
MOST_REPLICAS = 64
PROBE_TIMEOUT_S = 1.5
# the order in which stages stop: who asks before who answers
STAGES = (("gateway",), ("generator",), ("tokenizer",), ("retriever",), ("cache",))
STOCK = ("redis", "nats")
# what can run elsewhere: its address in the environment says so
MOVABLE = (*STOCK, "tokenizer", "retriever", "cache")
SCHEMES = {"nats": "nats://", "redis": "redis://"}
# threads that wait spin for microseconds only, because several services share the cores; without
# any spinning an engine step takes twice as long
CHILD_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
}


class PlanError(Exception):
    """What keeps the stack from starting; `problems` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for; None leaves it to the environment or the default."""

    folder: Path
    generators: int = 1
    tokenizers: int = 1
    retrievers: int = 1
    port: int | None = None
    model: Path = BUNDLED_MODEL
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes by stage, in the order in which stages stop; `external` runs elsewhere."""

    stages: tuple[tuple[Service, ...], ...]
    external: Mapping[str, str]
    url: str
    model_id: str
    drain_s: float


def plan(
    options: Options, environ: Mapping[str, str], dev_key: str = "", admin_key: str = ""
) -> Plan:
    """Choose ports and build every process; raise PlanError."""
    given = {name: value for name, value in environ.items() if value != ""}
    settings = _settings(given)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)
    ports = Ports(host, given)
    chosen, external = _choose_ports(options, given, ports)
    urls = {name: _addresses(name, host, chosen[name]) for name in chosen} | external
    common = {
        **CHILD_DEFAULTS,
        **given,
        **{f"{PREFIX}{name.upper()}_URL": urls[name] for name in MOVABLE},
        "INFERMESH_MODEL": str(options.model.absolute()),
        **_chosen(options),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), given.get("PYTHONPATH")])),
    }
    own = _defaults(options, dev_key, admin_key)
    python = [
        tuple(
            _python(name, index, port, host, {**own.get(name, {}), **common}, ports)
            for name in stage
            for index, port in enumerate(chosen.get(name, ()))
        )
        for stage in STAGES
    ]
    problems = [*_mistakes(options), *ports.problems]
    stock = _stock(chosen, options.folder.absolute(), given, problems)
    if problems:
        raise PlanError(problems)
    return Plan(
        stages=(*python, stock),
        external=external,
        url=f"http://{_address(host, chosen['gateway'][0])}",
        model_id=settings.model_id or model_name(options.model),
        drain_s=settings.drain_s,
    )


def _chosen(options: Options) -> dict[str, str]:
    """Return what the command line says over the environment."""
    if options.quantization is None:
        return {}
    return {"INFERMESH_GENERATOR_QUANTIZATION": options.quantization}


def _settings(given: Mapping[str, str]) -> Settings:
    try:
        return load(Settings, given, NAMES)
    except ConfigError as error:
        raise PlanError(error.problems) from None


def _defaults(options: Options, dev_key: str, admin_key: str) -> dict[str, dict[str, str]]:
    """Return what one kind of service is told where the user's environment does not."""
    keys = {"INFERMESH_GATEWAY_DEV_KEY": dev_key, "INFERMESH_GATEWAY_ADMIN_KEY": admin_key}
    data = {"INFERMESH_RETRIEVER_DATA": str(options.folder.absolute() / "retriever")}
    return {"gateway": keys, "retriever": data, "generator": _shared_cores(options.generators)}


def _choose_ports(
    options: Options, given: Mapping[str, str], ports: Ports
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Return the ports of what runs here, addresses of what runs elsewhere, each by name."""
    external = {
        name: url for name in MOVABLE if (url := given.get(f"{PREFIX}{name.upper()}_URL", ""))
    }
    chosen = {"gateway": [ports.gateway(options.port)]}
    numbers = {"generator": options.generators, "tokenizer": options.tokenizers}
    for name in ("generator", "tokenizer", "retriever", "cache"):
        if name not in external:
            number = min(numbers.get(name, 1), MOST_REPLICAS)
            chosen[name] = [ports.replica(name, index) for index in range(number)]
    chosen |= {name: [ports.free()] for name in STOCK if name not in external}
    return chosen, external


def _python(
    name: str, index: int, port: int, host: str, environ: Mapping[str, str], ports: Ports
) -> Service:
    address = _address(host, port)
    target = f"http://{address}/readyz" if name == "gateway" else address
    own = {
        f"{PREFIX}{name.upper()}_PORT": str(port),
        "INFERMESH_METRICS_PORT": str(ports.metrics(name)),
    }
    command = (sys.executable, "-m", f"services.{name}")
    ready = partial(probe, target, PROBE_TIMEOUT_S)
    return Service(name, index, command, {**environ, **own}, port, ready)


def _stock(
    chosen: Mapping[str, list[int]], folder: Path, given: Mapping[str, str], problems: list[str]
) -> tuple[Service, ...]:
    found = []
    for name in STOCK:
        for port in chosen.get(name, ()):
            try:
                found.append(_server(name, port, folder / name, given))
            except servers.MissingServerError as error:
                problems.append(str(error))
    return tuple(found)


def _server(name: str, port: int, store: Path, given: Mapping[str, str]) -> Service:
    if name == "redis":
        command = tuple(servers.redis_command(port, store))
        return Service(name, 0, command, given, port, partial(servers.redis_answers, port))
    arguments, environ = servers.nats_command(port, store)
    ready = partial(servers.nats_answers, port)
    return Service(name, 0, tuple(arguments), {**given, **environ}, port, ready)


def _mistakes(options: Options) -> list[str]:
    mistakes = [
        f"--{name}: must be 1 to {MOST_REPLICAS}"
        for name in ("generators", "tokenizers")
        if not 1 <= getattr(options, name) <= MOST_REPLICAS
    ]
    if options.retrievers != 1:
        mistakes.append("--retrievers: must be 1, because its embedded store has one writer")
    return mistakes


def _shared_cores(generators: int) -> dict[str, str]:
    """Share the cores out among the replicas of the generator."""
    if generators < 2:
        return {}
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // generators))}


def _addresses(name: str, host: str, ports: list[int]) -> str:
    where = "127.0.0.1" if name in SCHEMES else host
    return ",".join(f"{SCHEMES.get(name, '')}{_address(where, port)}" for port in ports)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
