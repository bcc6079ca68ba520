"""Typed, frozen settings read once from `INFERMESH_*` variables.

A shared field `nats_url` is `INFERMESH_NATS_URL`; the field `port` of the gateway's settings is
`INFERMESH_GATEWAY_PORT`. Every mistake is reported at once, by the variable's name.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "INFERMESH_"
# read by client commands and by `infermesh up`, not by services
CLIENT_VARIABLES = frozenset({"URL", "API_KEY", "GENERATOR_URL"})


class ConfigError(Exception):
    """All mistakes of one environment; `problems` holds one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseModel):
    """What every service is told; a service adds its own fields in a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    service: ClassVar[str] = ""

    nats_url: str = Field("nats://127.0.0.1:4222", description="NATS server, or several")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis server")
    tokenizer_url: str = Field("127.0.0.1:50051", description="gRPC address, or several")
    retriever_url: str = Field("127.0.0.1:50052", description="gRPC address, or several")
    cache_url: str = Field("127.0.0.1:50053", description="gRPC address, or several")
    model: str = Field("models/infermesh-tiny", description="folder of the checkpoint")
    model_id: str = Field("", description="name in requests; default: the folder's name")
    otlp_endpoint: str = Field("", description="OTLP gRPC collector; empty exports no traces")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    drain_s: float = Field(20.0, ge=0, le=600, description="limit for finishing work on SIGTERM")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port; 0 serves none")
    bind: str = Field("127.0.0.1", description="address that servers listen on")


S = TypeVar("S", bound=Settings)


def load(settings: type[S], environ: Mapping[str, str], services: Collection[str] = ()) -> S:
    """Return settings from the environment; raise ConfigError with one line per mistake.

    Empty values count as unset. Variables of other `services` are theirs to judge.
    """
    names = variables(settings)
    present = {k: v for k, v in environ.items() if k.startswith(PREFIX) and v != ""}
    others = {name.upper() for name in services} - {settings.service.upper()}
    unknown = [name for name in sorted(present) if name not in names and not _is_of(name, others)]
    problems = [f"{name}: unknown variable" for name in unknown]
    values: dict[str, Any] = {names[n]: value for n, value in present.items() if n in names}
    try:
        loaded = settings.model_validate(values)
    except ValidationError as error:
        of_field = {field: name for name, field in names.items()}
        problems += [
            f"{of_field.get(str(e['loc'][0]), e['loc']) if e['loc'] else PREFIX + '*'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        raise ConfigError(problems) from None
    if problems:
        raise ConfigError(problems)
    return loaded


def load_or_exit(settings: type[S], environ: Mapping[str, str], services: Collection[str]) -> S:
    """Do as `load`, but print the mistakes and exit with 2."""
    try:
        return load(settings, environ, services)
    except ConfigError as error:
        print("\n".join(f"config: {p}" for p in error.problems), file=sys.stderr)
        raise SystemExit(2) from None


def variables(settings: type[Settings]) -> dict[str, str]:
    """Map variable names to field names, for all fields of these settings."""
    own = PREFIX + (f"{settings.service.upper()}_" if settings.service else "")
    return {
        (PREFIX if field in Settings.model_fields else own) + field.upper(): field
        for field in settings.model_fields
    }


def _is_of(name: str, others: Collection[str]) -> bool:
    """Return whether a variable is for another service or for a client command."""
    rest = name.removeprefix(PREFIX)
    return rest in CLIENT_VARIABLES or rest.split("_", 1)[0] in others
