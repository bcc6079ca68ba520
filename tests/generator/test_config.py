"""The generator's settings and what the engine is told by them."""

import pytest

from services.generator.backend.mock.config import MockConfig
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
    assert GeneratorSettings().engine_config().kv_cache_bytes is None
    assert GeneratorSettings(kv_cache_mb=3).engine_config().kv_cache_bytes == 3 * 2**20


def test_options_that_contradict_each_other_are_refused() -> None:
    """The engine names the option, for which `variable` knows the setting."""
    with pytest.raises(EngineConfigError) as refused:
        GeneratorSettings(max_sequences=100, max_batched_tokens=16).engine_config()
    assert variable(refused.value.field) == "INFERMESH_GENERATOR_MAX_BATCHED_TOKENS"


def test_a_gpu_has_larger_steps() -> None:
    """Sizes that are left to us follow the device; others are taken as they are."""
    cpu, gpu = (GeneratorSettings(device=device).engine_config() for device in ("cpu", "cuda"))
    assert (cpu.max_num_seqs, cpu.max_batched_tokens) == (64, 512)
    assert (gpu.max_num_seqs, gpu.max_batched_tokens) == (256, 8192)
    assert GeneratorSettings(device="cuda", max_sequences=3).engine_config().max_num_seqs == 3


def test_what_only_a_gpu_does_is_refused_on_a_cpu() -> None:
    """The engine names the option."""
    assert (
        GeneratorSettings(device="cuda", quantization="fp8").engine_config().quantization == "fp8"
    )
    with pytest.raises(EngineConfigError, match="quantization: must be int8"):
        GeneratorSettings(quantization="fp8").engine_config()
    assert (
        GeneratorSettings(device="cuda", kv_cache_dtype="fp8").engine_config().kv_cache_dtype
        == "fp8"
    )
    with pytest.raises(EngineConfigError, match="kv_cache_dtype: must be None"):
        GeneratorSettings(kv_cache_dtype="fp8").engine_config()


def test_the_mock_engine_has_times_in_milliseconds() -> None:
    """Its options are there only where it was chosen."""
    assert GeneratorSettings(mock_token_ms=5).mock_config() is None
    mock = GeneratorSettings(
        engine="mock", mock_first_token_ms=200, mock_token_ms=5, mock_output_tokens=9
    ).mock_config()
    assert mock == MockConfig(first_token_s=0.2, token_s=0.005, output_tokens=9)
