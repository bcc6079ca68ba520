"""Rotary settings of a file: kinds of scaling, factors of frequencies, parts of heads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.generator.model.errors import ModelConfigError
from tests.generator.model.checkpoint.gguf.files import read


def test_a_part_of_each_head_is_rotated(tmp_path: Path) -> None:
    """Every even number of dimensions comes out as it went in, whatever the head's size."""
    for head_dim in (16, 98, 122):
        for dim in (2, 8, 14):
            config = read(
                tmp_path, "phi3", attention__key_length=head_dim, attention__value_length=head_dim,
                rope__dimension_count=dim,
            )  # fmt: skip
            assert [rope.dim for rope in config.ropes] == [dim]


def test_yarn(tmp_path: Path) -> None:
    """llama.cpp's own factors multiply YaRN's."""
    config = read(
        tmp_path, rope__scaling__type="yarn", rope__scaling__factor=4.0,
        rope__scaling__original_context_length=128, rope__scaling__attn_factor=0.5,
        rope__scaling__yarn_beta_fast=16.0,
    )  # fmt: skip
    [rope] = config.ropes
    assert (rope.kind, rope.factor, rope.original_context_length) == ("yarn", 4.0, 128)
    assert rope.attention_factor == pytest.approx(0.5 * (0.1 * np.log(4.0) + 1))
    assert (rope.beta_fast, rope.beta_slow) == (16.0, 1.0)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"rope.scaling.factor": 8.0}, ("linear", 8.0)),
        ({"rope.scale_linear": 8.0}, ("linear", 8.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 8.0}, ("default", 1.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, ("default", 1.0)),
        ({}, ("default", 1.0)),
    ],
)
def test_linear_scaling(
    tmp_path: Path, entries: dict[str, Any], expected: tuple[str, float]
) -> None:
    """A factor without a kind is linear, as in files before there were kinds."""
    [rope] = read(tmp_path, **entries).ropes
    assert (rope.kind, rope.factor) == expected


def test_factors_of_frequencies(tmp_path: Path) -> None:
    """Numbers for another size of heads, or of another type, are refused by the tensor's name."""
    for array in (np.ones(7, np.float32), np.ones(8, np.float16)):
        with pytest.raises(ModelConfigError) as refused:
            read(tmp_path, tensors={"rope_freqs.weight": array})
        assert refused.value.field == "rope_freqs.weight"
    [rope] = read(tmp_path, tensors={"rope_freqs.weight": np.full(8, 2, np.float32)}).ropes
    assert (rope.divisors, rope.attention_factor) == ((2.0,) * 8, 1.0)


def test_factors_for_long_contexts_come_in_pairs(tmp_path: Path) -> None:
    """One list without the other is refused by the name of the missing one."""
    for name, missing in (("long", "short"), ("short", "long")):
        with pytest.raises(ModelConfigError) as refused:
            read(tmp_path, "phi3", tensors={f"rope_factors_{name}.weight": np.ones(8, np.float32)})
        assert refused.value.field == f"rope_factors_{missing}.weight"
