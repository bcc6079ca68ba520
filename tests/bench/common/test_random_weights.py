"""Weights that are made where a model asks for them."""

import pytest
import torch

from bench.common.checkpoints import LLAMA_3_8B, QWEN3_0_6B, TINY, parameter_shapes
from bench.common.random_weights import RandomWeights
from services.generator.model.errors import WeightError


def weights(dtype: torch.dtype = torch.float32) -> RandomWeights:
    return RandomWeights(TINY, "cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_name_has_the_same_values_each_time(dtype: torch.dtype) -> None:
    """Every tensor is made twice, in either order, to the same finite values and right shape."""
    shapes = parameter_shapes(TINY)
    once, again = weights(dtype), weights(dtype)
    first = {name: once.tensor(name, *shape) for name, shape in shapes.items()}
    for name, shape in reversed(shapes.items()):
        assert name in once
        assert first[name].shape == shape
        assert first[name].dtype == dtype
        assert first[name].isfinite().all()
        assert torch.equal(first[name], again.tensor(name, *shape))


def test_names_have_values_of_their_own() -> None:
    """Two layers differ; a matrix's variance is one over what it sums, and norms are ones."""
    name = "model.layers.{}.mlp.down_proj.weight"
    first, second = (weights().tensor(name.format(layer), 64, 128) for layer in (0, 1))
    assert not torch.equal(first, second)
    assert float(first.std()) == pytest.approx(128**-0.5, rel=0.05)
    assert weights().tensor("model.norm.weight", 64).eq(1.0).all()


def test_what_the_model_does_not_have_is_refused() -> None:
    """Tied weights have no head, and a shape must be the model's."""
    assert "lm_head.weight" not in weights()
    with pytest.raises(WeightError, match=r"lm_head\.weight"):
        weights().tensor("lm_head.weight", 512, 64)
    with pytest.raises(WeightError, match=r"expected \(65,\)"):
        weights().tensor("model.norm.weight", 65)


def test_the_shapes_are_those_of_the_models() -> None:
    """As many parameters as Llama-3-8B and Qwen3-0.6B have."""
    counts = [RandomWeights(c, "cpu", torch.bfloat16) for c in (LLAMA_3_8B, QWEN3_0_6B)]
    assert [each.num_parameters for each in counts] == [8_030_261_248, 596_049_920]
