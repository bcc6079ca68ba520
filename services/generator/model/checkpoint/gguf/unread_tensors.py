"""Tensors of a GGUF file that the model would leave out. Knows no torch."""

import re

from mesh.gguf import GGUFFile
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.gguf.rope_fields import (
    FACTORS,
    LONG_FACTORS,
    SHORT_FACTORS,
)
from services.generator.model.errors import WeightError

_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<stem>\w+)\.(?P<suffix>weight|bias)")
# the configuration's own
_NOT_WEIGHTS = frozenset({FACTORS, LONG_FACTORS, SHORT_FACTORS})


def refuse_unread_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """Raise WeightError for a tensor that the model does not have, or one that is empty.

    To leave it out would give other numbers than the file's.
    """
    outer, layer, biased = _outer_stems(config), _layer_stems(config), _biased_stems(config)
    for name in sorted(file.tensors.keys() - _NOT_WEIGHTS):
        shape = file.tensors[name].shape
        if not shape or 0 in shape:
            raise WeightError(name, f"has shape {shape}, which is empty")
        match = _NAME.fullmatch(name)
        number = match and match["layer"]
        stems = outer if number is None else layer
        is_known = match is not None and match["stem"] in stems
        if not is_known or (number is not None and int(number) >= config.num_layers):
            raise WeightError(name, "is not a tensor of its architecture that is supported")
        if match is not None and match["suffix"] == "bias" and match["stem"] not in biased:
            raise WeightError(name, "is a bias that its architecture does not have")


def _outer_stems(config: ModelConfig) -> set[str | None]:
    names = config.family.weights
    return {names.embedding, names.positions, names.norm, names.head}


def _layer_stems(config: ModelConfig) -> set[str | None]:
    names = config.family.weights
    stems = {
        names.attention_norm, *names.qkv, *(names.head_norms or ()), names.out,
        names.post_attention_norm, names.mlp_norm, names.post_mlp_norm,
    }  # fmt: skip
    if any(each.experts is None for each in config.layers):
        stems |= {*names.gate_up, names.down}
    if names.experts is not None:
        slices = (*names.experts.gate_up, names.experts.down)
        stems |= {names.experts.router, *(name.removesuffix(".{}") for name in slices)}
    return stems


def _biased_stems(config: ModelConfig) -> set[str]:
    names, stems = config.family.weights, set()
    if config.qkv_bias:
        stems |= set(names.qkv)
    if config.out_bias:
        stems.add(names.out)
    if config.mlp_bias:
        stems |= {*names.gate_up, names.down}
    if config.family.norm == "layer":
        stems |= {names.attention_norm, names.mlp_norm, names.norm}
    return stems
