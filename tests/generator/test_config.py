"""The generator's settings and what the engine is told by them."""

import pytest

from services.generator.config import GeneratorSettings, variable
from services.generator.engine import EngineConfigError


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("model", "INFERMESH_MODEL"),
        ("kv_cache_bytes", "INFERMESH_GENERATOR_KV_CACHE_MB"),
        ("max_num_seqs", "INFERMESH_GENERATOR_MAX_SEQUENCES"),
        ("max_batched_tokens", "INFERMESH_GENERATOR_MAX_BATCHED_TOKENS"),
        ("num_threads", "INFERMESH_GENERATOR_THREADS"),
        ("block_size", "block_size"),
    ],
)
def test_a_refused_option_has_the_name_of_its_variable(option: str, name: str) -> None:
    """An operator reads what they can set; what they cannot keeps the engine's name."""
    assert variable(option) == name


def test_zero_leaves_the_choice_to_the_engine() -> None:
    """Unset sizes are None for the engine, a set one is in its unit."""
    assert GeneratorSettings().engine().kv_cache_bytes is None
    assert GeneratorSettings(kv_cache_mb=3).engine().kv_cache_bytes == 3 * 2**20


def test_options_that_contradict_each_other_are_refused() -> None:
    """The engine names the option, for which `variable` knows the setting."""
    with pytest.raises(EngineConfigError) as refused:
        GeneratorSettings(max_sequences=100, max_batched_tokens=16).engine()
    assert variable(refused.value.field) == "INFERMESH_GENERATOR_MAX_BATCHED_TOKENS"
