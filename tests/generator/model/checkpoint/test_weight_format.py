"""`quantization_config`: what is read of it, and what is refused."""

from typing import Any

import pytest

from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.weight_format import WeightFormat, parse_weight_format
from services.generator.model.errors import ModelConfigError
from tests.generator.tiny import CONFIG

GPTQ = {
    "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True,
    "lm_head": False, "checkpoint_format": "gptq", "pack_dtype": "int32", "damp_percent": 0.01,
}  # fmt: skip
AWQ = {
    "quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
    "modules_to_not_convert": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GPTQ, WeightFormat("gptq", 128)),
        ({"quant_method": "gptq", "bits": 4}, WeightFormat("gptq", 128)),
        (GPTQ | {"checkpoint_format": "gptq_v2", "sym": False}, WeightFormat("gptq_v2", 128)),
        (GPTQ | {"group_size": -1, "dynamic": None}, WeightFormat("gptq", None)),
        (GPTQ | {"desc_act": True}, WeightFormat("gptq", 128, has_order=True)),
        (AWQ, WeightFormat("awq", 64)),
        (AWQ | {"version": "GEMM"}, WeightFormat("awq", 64)),
        ({"quant_method": "awq", "bits": 4, "format": "gemm"}, WeightFormat("awq", 128)),
        (None, None),
    ],
)
def test_a_format_is_read(given: Any, expected: WeightFormat | None) -> None:
    """As GPTQModel, AutoGPTQ, AutoAWQ and transformers write it."""
    assert parse_weight_format(given) == expected
    config = ModelConfig.parse(CONFIG | {"quantization_config": given}, None)
    assert config.weight_format == expected


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], ""),
        ({}, ".quant_method"),
        (GPTQ | {"quant_method": "fp8"}, ".quant_method"),
        (GPTQ | {"bits": 8}, ".bits"),
        ({"quant_method": "gptq"}, ".bits"),
        (GPTQ | {"group_size": 16}, ".group_size"),
        (GPTQ | {"group_size": 0}, ".group_size"),
        (GPTQ | {"group_size": None}, ".group_size"),
        (GPTQ | {"group_size": "128"}, ".group_size"),
        (GPTQ | {"checkpoint_format": "marlin"}, ".checkpoint_format"),
        (GPTQ | {"is_marlin_format": True}, ".is_marlin_format"),
        (GPTQ | {"pack_dtype": "int16"}, ".pack_dtype"),
        (GPTQ | {"lm_head": True}, ".lm_head"),
        (GPTQ | {"dynamic": {"-:.*down.*": {}}}, ".dynamic"),
        (AWQ | {"bits": 3}, ".bits"),
        (AWQ | {"version": "gemv"}, ".version"),
        (AWQ | {"zero_point": False}, ".zero_point"),
        (AWQ | {"backend": "llm-awq"}, ".backend"),
    ],
)
def test_what_is_not_supported_is_named(given: Any, field: str) -> None:
    """Before a weight is read."""
    with pytest.raises(ModelConfigError) as caught:
        ModelConfig.parse(CONFIG | {"quantization_config": given}, None)
    assert caught.value.field == f"quantization_config{field}"
