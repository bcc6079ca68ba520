"""Each model in turn; tests skip where it was not fetched."""

from pathlib import Path

import pytest

from tests.models.files import MODELS


def present(name: str) -> Path:
    """Return a model's file, or skip."""
    path = MODELS[name]()
    if path is None:
        pytest.skip(f"{name} is not here: make test-models")
    return path


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Path:
    """Return the file of each model."""
    return present(request.param)


@pytest.fixture(scope="module")
def gemma_file() -> Path:
    """Return Gemma's file."""
    return present("gemma")


@pytest.fixture(scope="module")
def smollm2_file() -> Path:
    """Return SmolLM2's file."""
    return present("smollm2")
