"""The engine and the bench of its kernels need five packages and not what the services need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(f"services.generator.{name}" for name in ("engine", "model", "backend"))
PEER = "bench.gpu.engine.transformers_peer"  # measured where transformers is installed


def imported(*names: str) -> subprocess.CompletedProcess[str]:
    """Run the imports in a process in which the project's other dependencies are absent."""
    return subprocess.run(
        [sys.executable, "-m", "tests.generator.minimal_imports", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def modules_of(*packages: str) -> set[str]:
    """Return the names of all modules in these packages, by their files."""
    files = [path for name in packages for path in (ROOT / name.replace(".", "/")).rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return {name.removesuffix(".__init__") for name in names}


def test_the_gpu_path_imports_five_packages() -> None:
    """Every module of the engine, the model and the backends imports."""
    run = imported(*PACKAGES)
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == modules_of(*PACKAGES)


def test_the_bench_on_a_gpu_imports_five_packages() -> None:
    """Every module of `bench.gpu` imports but the one that measures transformers."""
    run = imported("bench.gpu")
    assert modules_of("bench.gpu") - set(run.stdout.split()) == {PEER}, run.stderr


@pytest.mark.parametrize(
    ("edge", "package"),
    [
        ("serving.servicer", "grpc"),
        ("serving.collector", "prometheus_client"),
        ("config", "pydantic"),
    ],
)
def test_what_the_services_need_is_absent(edge: str, package: str) -> None:
    """A module at the service's edge does not import, because its package is not there."""
    run = imported(f"services.generator.{edge}")
    assert run.returncode == 1
    assert f"No module named '{package}'" in run.stderr
