"""What a checkpoint wishes for requests that do not say."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.generator.model.checkpoint.generation_config import GenerationConfig
from services.generator.model.errors import ModelConfigError


def test_a_checkpoint_may_lack_the_file(tmp_path: Path) -> None:
    """Without it nothing is filtered, and the end ids are `config.json`'s to tell."""
    config = GenerationConfig.read(tmp_path)
    assert config == GenerationConfig()
    assert (config.max_tokens, config.temperature, config.top_k, config.top_p) == (None, 1, 0, 1)
    assert config.eos_token_ids is None


def test_its_fields_are_taken(tmp_path: Path) -> None:
    """Sampling, length and several end ids; null is absent, and what is foreign does not matter."""
    raw = {
        "max_new_tokens": 2048,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "min_p": None,
        "repetition_penalty": 1.05,
        "eos_token_id": [151645, 151643],
        "transformers_version": "4.57.0",
        "do_sample": True,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(raw))
    assert GenerationConfig.read(tmp_path) == GenerationConfig(
        max_tokens=2048,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.05,
        eos_token_ids=(151645, 151643),
    )


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_may_be_off(top_k: int) -> None:
    """Both of its spellings for off are one."""
    assert GenerationConfig.parse({"top_k": top_k}) == GenerationConfig()


def test_only_temperature_0_is_greedy() -> None:
    """As in vLLM, `do_sample` has no say."""
    assert GenerationConfig.parse({"do_sample": False}).temperature == 1.0
    assert GenerationConfig.parse({"temperature": 0}).temperature == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -2),
        ("top_p", 0),
        ("top_p", 1.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("eos_token_id", "</s>"),
        ("eos_token_id", [2, None]),
    ],
)
def test_a_bad_value_is_named(field: str, value: Any) -> None:
    """A replica refuses to start rather than to sample in a way that nobody asked for."""
    with pytest.raises(ModelConfigError, match="must be") as caught:
        GenerationConfig.parse({field: value})
    assert caught.value.field == f"generation_config.json: {field}"
