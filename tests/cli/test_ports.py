"""Which port each process gets."""

import socket

from cli.ports import Ports

HOST = "127.0.0.1"


def test_ports_are_free_and_different() -> None:
    """However many are asked for."""
    ports = Ports(HOST, {})
    chosen = [ports.replica("generator", n) for n in range(20)] + [ports.metrics("x")]
    assert len(set(chosen)) == 21
    assert not ports.problems


def test_the_gateway_takes_what_was_asked_then_its_variable_then_8080() -> None:
    """An argument is stronger than the environment."""
    environ = {"INFERMESH_GATEWAY_PORT": "18081"}
    assert Ports(HOST, environ).gateway(18082) == 18082
    assert Ports(HOST, environ).gateway(None) == 18081
    assert Ports(HOST, {}).gateway(None) == 8080


def test_a_variable_names_the_first_replica_and_the_others_follow() -> None:
    """Metrics ports follow over all processes."""
    environ = {"INFERMESH_GENERATOR_PORT": "18100", "INFERMESH_METRICS_PORT": "18200"}
    ports = Ports(HOST, environ)
    assert [ports.replica("generator", n) for n in range(3)] == [18100, 18101, 18102]
    assert [ports.metrics(name) for name in ("generator", "cache")] == [18200, 18201]
    assert not ports.problems


def test_a_busy_port_is_named_with_who_needs_it() -> None:
    """And with the setting that moves it; all of them at once."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        ports = Ports(HOST, {"INFERMESH_CACHE_PORT": str(port)})
        ports.gateway(port)
        ports.replica("cache", 0)
    assert ports.problems == [
        f"port {port} is busy; the gateway needs it (see --port)",
        f"port {port} is busy; the cache needs it (see INFERMESH_CACHE_PORT)",
    ]


def test_what_is_no_port_is_a_problem() -> None:
    """Words and numbers out of range."""
    ports = Ports(HOST, {"INFERMESH_CACHE_PORT": "many", "INFERMESH_RETRIEVER_PORT": "65536"})
    ports.replica("cache", 0)
    ports.replica("retriever", 0)
    ports.gateway(0)
    assert ports.problems == [
        "INFERMESH_CACHE_PORT: 'many' is no port",
        "INFERMESH_RETRIEVER_PORT: 65536 is no port",
        "--port: 0 is no port",
    ]
