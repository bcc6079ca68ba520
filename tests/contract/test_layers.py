"""The shape of the repository: five deployables, each complete, and no module without a purpose."""

import ast
from pathlib import Path

import pytest

from services import NAMES

ROOT = Path(__file__).parents[2]
SERVICES = sorted(p.name for p in (ROOT / "services").iterdir() if (p / "__init__.py").exists())
MODULES = sorted(
    path
    for folder in ("mesh", "services")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent != ROOT / "mesh" / "pb"
)
REQUIRED = ("__init__.py", "__main__.py", "config.py", "README.md")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def compose_services() -> set[str]:
    """The names under `services:`, read without a YAML library: two spaces deep."""
    names, inside = set(), False
    for line in (ROOT / "compose.yaml").read_text().splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            inside = line.startswith("services:")
        elif inside and line.startswith("  ") and line[2].isalnum() and line.endswith(":"):
            names.add(line.strip(" :"))
    return names


def test_the_services_are_the_five_deployables() -> None:
    """`services/` holds exactly the deployables whose variables the settings let pass."""
    assert sorted(NAMES) == SERVICES


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_complete(name: str) -> None:
    """Each service starts alone, has settings of its own and says what it is."""
    missing = [file for file in REQUIRED if not (ROOT / "services" / name / file).exists()]
    assert not missing


@pytest.mark.parametrize("name", SERVICES)
def test_a_services_settings_bear_its_name(name: str) -> None:
    """The variables of a service begin with its folder's name."""
    tree = ast.parse((ROOT / "services" / name / "config.py").read_text())
    declared = {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "service"
        and isinstance(node.value, ast.Constant)
    }
    assert declared == {name}


def test_every_service_is_in_the_compose_file() -> None:
    """What is deployed is what the folder holds, beside stock servers and fetches of weights."""
    assert set(SERVICES) <= compose_services()
    stock = {"nats", "redis", "weights", "models", "prometheus", "otel-collector"}
    assert compose_services() <= {*SERVICES, *stock}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_an_image_and_an_extra(name: str) -> None:
    """The Dockerfile has a target and the package an extra of the service's name."""
    assert f" AS {name}\n" in (ROOT / "infra" / "Dockerfile").read_text()
    assert f"\n{name} = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_says_what_it_owns(path: Path) -> None:
    """A module without a docstring has no stated boundary."""
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("name", SERVICES)
def test_a_main_is_short(name: str) -> None:
    """`__main__` only puts things together."""
    path = ROOT / "services" / name / "__main__.py"
    assert len(path.read_text().splitlines()) <= 80
