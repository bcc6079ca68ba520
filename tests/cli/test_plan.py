"""From options and environment to processes."""

import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cli.plan import Options, Plan, PlanError, plan
from cli.replica import Service
from mesh.config import Settings, load, variables
from services import NAMES


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A folder, a checkpoint and a port that is surely free."""
    model = tmp_path / "some-model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return Options(folder=tmp_path / ".infermesh", port=port, model=model)


def by_name(planned: Plan, name: str) -> list[Service]:
    """All replicas of one service."""
    return [s for stage in planned.stages for s in stage if s.name == name]


def environ_of(planned: Plan, name: str) -> Mapping[str, str]:
    """What the first replica is told."""
    return by_name(planned, name)[0].environ


def test_everything_runs_in_the_order_of_stopping(options: Options) -> None:
    """Who asks stops before who answers; the stock servers stop last."""
    planned = plan(replace(options, generators=2, tokenizers=3), {})
    labels = [[service.label for service in stage] for stage in planned.stages]
    assert labels == [
        ["gateway-0"],
        ["generator-0", "generator-1"],
        ["tokenizer-0", "tokenizer-1", "tokenizer-2"],
        ["retriever-0"],
        ["cache-0"],
        ["redis-0", "nats-0"],
    ]
    ports = [service.port for stage in planned.stages for service in stage]
    assert len(set(ports)) == len(ports)
    assert planned.url == f"http://127.0.0.1:{options.port}"
    assert planned.model_id == "some-model"
    assert planned.drain_s == 20.0


def test_a_replica_is_one_process_of_its_module(options: Options) -> None:
    """Its name stands once on its command line."""
    for service in by_name(plan(replace(options, generators=2), {}), "generator"):
        assert service.command == (sys.executable, "-m", "services.generator")
        assert service.environ["INFERMESH_GENERATOR_PORT"] == str(service.port)


def test_services_are_told_where_the_others_are(options: Options) -> None:
    """By address, several with commas."""
    planned = plan(replace(options, tokenizers=2), {})
    told = environ_of(planned, "gateway")
    address = {s.label: f"127.0.0.1:{s.port}" for stage in planned.stages for s in stage}
    tokenizers = ",".join([address["tokenizer-0"], address["tokenizer-1"]])
    assert told["INFERMESH_TOKENIZER_URL"] == tokenizers
    assert told["INFERMESH_RETRIEVER_URL"] == address["retriever-0"]
    assert told["INFERMESH_CACHE_URL"] == address["cache-0"]
    assert told["INFERMESH_NATS_URL"] == f"nats://{address['nats-0']}"
    assert told["INFERMESH_REDIS_URL"] == f"redis://{address['redis-0']}"
    assert told["INFERMESH_MODEL"] == str(options.model)


def test_services_accept_what_they_are_told(options: Options) -> None:
    """The shared settings read it; whatever else is set belongs to a service."""
    planned = plan(options, {}, dev_key="sk-a", admin_key="sk-b")
    for service in (s for stage in planned.stages[:-1] for s in stage):
        load(Settings, service.environ, NAMES)
        own = {name for name in service.environ if name.startswith("INFERMESH_")}
        own -= set(variables(Settings))
        assert all(name.split("_")[1].lower() in NAMES for name in own)


def test_only_the_gateway_is_told_the_keys(options: Options) -> None:
    """Nobody else needs them."""
    planned = plan(options, {}, dev_key="sk-a", admin_key="sk-b")
    for service in (s for stage in planned.stages for s in stage):
        told = {service.environ.get(f"INFERMESH_GATEWAY_{k}_KEY") for k in ("DEV", "ADMIN")}
        assert told == ({"sk-a", "sk-b"} if service.name == "gateway" else {None})


def test_every_process_has_a_metrics_port_of_its_own(options: Options) -> None:
    """Two on one port would keep each other from starting."""
    planned = plan(replace(options, generators=2), {})
    services = [s for stage in planned.stages[:-1] for s in stage]
    assert len({s.environ["INFERMESH_METRICS_PORT"] for s in services}) == len(services)


def test_what_has_an_address_elsewhere_is_not_started(options: Options) -> None:
    """And the others are told that address."""
    external = {
        "INFERMESH_NATS_URL": "nats://a:4222",
        "INFERMESH_REDIS_URL": "redis://b:6379/1",
        "INFERMESH_RETRIEVER_URL": "c:50052",
    }
    planned = plan(options, external)
    for name in ("nats", "redis", "retriever"):
        assert not by_name(planned, name)
        assert planned.external[name] == external[f"INFERMESH_{name.upper()}_URL"]
    assert external.items() <= environ_of(planned, "gateway").items()


def test_the_users_variables_win_over_defaults(options: Options) -> None:
    """What someone set is passed through."""
    planned = plan(
        replace(options, generators=2),
        {
            "OMP_WAIT_POLICY": "ACTIVE",
            "OMP_NUM_THREADS": "7",
            "INFERMESH_RETRIEVER_DATA": "/data",
            "INFERMESH_GENERATOR_BLOCK_SIZE": "32",
            "INFERMESH_MODEL_ID": "my-model",
            "INFERMESH_DRAIN_S": "3",
        },
    )
    generator = environ_of(planned, "generator")
    assert generator["OMP_WAIT_POLICY"] == "ACTIVE"
    assert generator["OMP_NUM_THREADS"] == "7"
    assert generator["INFERMESH_GENERATOR_BLOCK_SIZE"] == "32"
    assert environ_of(planned, "retriever")["INFERMESH_RETRIEVER_DATA"] == "/data"
    assert planned.model_id == "my-model"
    assert planned.drain_s == 3.0


def test_generators_share_the_cores(options: Options) -> None:
    """One takes them all, as torch does by itself."""
    assert "OMP_NUM_THREADS" not in environ_of(plan(options, {}), "generator")
    shared = environ_of(plan(replace(options, generators=64), {}), "generator")
    assert int(shared["OMP_NUM_THREADS"]) >= 1


def test_data_lies_in_the_folder(options: Options) -> None:
    """By absolute paths."""
    planned = plan(options, {})
    folder = options.folder
    assert environ_of(planned, "retriever")["INFERMESH_RETRIEVER_DATA"] == str(folder / "retriever")
    assert environ_of(planned, "nats")["STORE_DIR"] == str(folder / "nats")
    assert str(folder / "redis") in by_name(planned, "redis")[0].command


def test_a_wildcard_bind_is_reached_over_loopback(options: Options) -> None:
    """Nobody can connect to 0.0.0.0 by name."""
    planned = plan(options, {"INFERMESH_BIND": "0.0.0.0"})
    assert planned.url.startswith("http://127.0.0.1:")
    assert environ_of(planned, "gateway")["INFERMESH_CACHE_URL"].startswith("127.0.0.1:")


def test_all_mistakes_are_told_at_once(options: Options) -> None:
    """Options and port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        wrong = replace(options, generators=0, tokenizers=65, retrievers=2, port=port)
        with pytest.raises(PlanError) as caught:
            plan(wrong, {})
    assert caught.value.problems == [
        "--generators: must be 1 to 64",
        "--tokenizers: must be 1 to 64",
        "--retrievers: must be 1, because its embedded store has one writer",
        f"port {port} is busy; the gateway needs it (see --port)",
    ]


def test_variables_that_no_service_knows_are_refused(options: Options) -> None:
    """Before seven processes do so one by one."""
    with pytest.raises(PlanError) as caught:
        plan(options, {"INFERMESH_NATS_ULR": "x", "INFERMESH_DRAIN_S": "long"})
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "INFERMESH_NATS_ULR",
        "INFERMESH_DRAIN_S",
    ]


def test_quantization_is_told_to_the_generator(options: Options) -> None:
    """The option goes before the environment; without it the environment decides."""
    name = "INFERMESH_GENERATOR_QUANTIZATION"
    assert name not in environ_of(plan(options, {}), "generator")
    chosen = plan(replace(options, quantization="int8"), {})
    assert environ_of(chosen, "generator")[name] == "int8"
    assert environ_of(plan(options, {name: "int8"}), "generator")[name] == "int8"
