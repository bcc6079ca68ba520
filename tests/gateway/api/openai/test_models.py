"""The list of models."""

from typing import Any

import openai
import pytest


async def test_chat_models_come_first(stack: Any) -> None:
    """Clients that take the first model can chat with it."""
    models = [m.id async for m in stack.client.models.list()]
    assert models == ["tiny", "all-MiniLM-L6-v2"]


async def test_one_model(stack: Any) -> None:
    """A model is found by its name; an unknown one is a 404."""
    model = await stack.client.models.retrieve("tiny")
    assert model.id == "tiny" and model.object == "model" and model.context_length == 512
    with pytest.raises(openai.NotFoundError):
        await stack.client.models.retrieve("other/model")
