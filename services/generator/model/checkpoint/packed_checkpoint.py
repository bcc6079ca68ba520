"""Packed matrices of four bits read from a checkpoint; what the products do not take is refused."""

from collections.abc import Sequence

import torch

from services.generator.model.checkpoint.packed_weight import VALUES, PackedWeight
from services.generator.model.checkpoint.safetensors import Weights
from services.generator.model.checkpoint.weight_format import SECTION, WeightFormat
from services.generator.model.errors import ModelConfigError, WeightError


def read_packed(
    weights: Weights,
    weight_format: WeightFormat,
    names: Sequence[str],
    in_size: int,
    out_sizes: Sequence[int],
) -> PackedWeight:
    """Return the matrices of the same inputs as one, [sum of `out_sizes`, `in_size`].

    Raises ModelConfigError or WeightError, naming the field or tensor at fault.
    """
    size = weight_format.group_size or in_size
    if in_size % size:
        raise ModelConfigError(
            f"{SECTION}.group_size", f"{size} does not divide the {in_size} inputs of {names[0]}"
        )
    return PackedWeight.stacked(
        [
            _read(weights, weight_format, name, in_size, out_size, size)
            for name, out_size in zip(names, out_sizes, strict=True)
        ]
    )


def _read(
    weights: Weights,
    weight_format: WeightFormat,
    name: str,
    inputs: int,
    outputs: int,
    group_size: int,
) -> PackedWeight:
    if inputs % VALUES or outputs % VALUES:
        problem = f"packs [{outputs}, {inputs}], which is not in multiples of {VALUES}"
        raise WeightError(f"{name}.qweight", problem)
    groups = inputs // group_size
    shape = (inputs, outputs // VALUES)
    if weight_format.layout != "awq":
        shape = (inputs // VALUES, outputs)
    if weight_format.has_order or f"{name}.g_idx" in weights:
        _check_order(f"{name}.g_idx", weights.tensor(f"{name}.g_idx", inputs), group_size)
    return PackedWeight(
        weight_format.layout,
        _words(weights, f"{name}.qweight", *shape),
        _words(weights, f"{name}.qzeros", groups, outputs // VALUES),
        weights.tensor(f"{name}.scales", groups, outputs),
        group_size,
    )


def _words(weights: Weights, name: str, *shape: int) -> torch.Tensor:
    words = weights.tensor(name, *shape)
    if words.dtype != torch.int32:
        raise WeightError(name, f"is {words.dtype}, not torch.int32")
    return words


def _check_order(name: str, g_idx: torch.Tensor, group_size: int) -> None:
    if not torch.equal(g_idx.long(), torch.arange(len(g_idx)) // group_size):
        problem = "has groups of inputs that lie apart (desc_act), which is not supported"
        raise WeightError(name, problem)
