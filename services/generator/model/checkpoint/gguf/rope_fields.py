"""Rotary settings of a GGUF file as those of `config.json`; factors of frequencies are tensors."""

import math
from collections.abc import Mapping
from typing import Any

from mesh.gguf import Tensor
from services.generator.model.checkpoint.gguf.metadata import Metadata
from services.generator.model.errors import ModelConfigError

# tensors that are read here, and are no weights
FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
_SCALING = "rope.scaling."
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "rope.scaling.alpha": (0.0,), "rope.scaling.yarn_log_multiplier": (0.0,),
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
}  # fmt: skip


def rope_fields(metadata: Metadata, tensors: Mapping[str, Tensor], head_dim: int) -> dict[str, Any]:
    """Return the fields; raises ModelConfigError naming the entry or tensor at fault."""
    metadata.refuse(_NEUTRAL)
    dim = metadata.size("rope.dimension_count", head_dim)
    fields: dict[str, Any] = {
        "rope_theta": metadata.number("rope.freq_base", 1e4),
        "original_max_position_embeddings": _original_length(metadata),
    }
    if dim != head_dim:
        if metadata.architecture == "llama" or dim > head_dim:
            problem = f"{dim} of {head_dim} dimensions is not supported"
            raise ModelConfigError(metadata.key("rope.dimension_count"), problem)
        # one up, so that no rounding takes a dimension away
        fields["partial_rotary_factor"] = math.nextafter(dim / head_dim, 1.0)
    scaling = _scaling(metadata, tensors, dim)
    return fields if scaling is None else fields | {"rope_scaling": scaling}


def _original_length(metadata: Metadata) -> int:
    context_length = metadata.size("context_length")
    return metadata.size(f"{_SCALING}original_context_length", context_length)


def _scaling(metadata: Metadata, tensors: Mapping[str, Tensor], dim: int) -> dict[str, Any] | None:
    kind = metadata.get(f"{_SCALING}type") or "linear"
    factor = metadata.optional_number(f"{_SCALING}factor")
    factor = factor or metadata.optional_number("rope.scale_linear") or 1.0
    if kind == "longrope" or not tensors.keys().isdisjoint((LONG_FACTORS, SHORT_FACTORS)):
        return _longrope(metadata, tensors, dim)
    if FACTORS in tensors:
        if kind == "yarn":
            raise ModelConfigError(FACTORS, "is not supported beside yarn")
        return _frequency_factors(tensors, dim, 1.0 if kind == "none" else factor)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(metadata, factor)
    problem = f"{kind} is not one of: linear, longrope, none, yarn"
    raise ModelConfigError(metadata.key(f"{_SCALING}type"), problem)


def _attention_factor(metadata: Metadata) -> float:
    names = ("attn_factor", "yarn_attn_factor")
    return math.prod(metadata.number(f"{_SCALING}{name}", 1.0) for name in names)


def _yarn(metadata: Metadata, factor: float) -> dict[str, Any]:
    stretch = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": _original_length(metadata),
        "beta_fast": metadata.number(f"{_SCALING}yarn_beta_fast", 32.0),
        "beta_slow": metadata.number(f"{_SCALING}yarn_beta_slow", 1.0),
        # llama.cpp multiplies with its factors what transformers replaces
        "attention_factor": stretch * _attention_factor(metadata),
    }


def _longrope(metadata: Metadata, tensors: Mapping[str, Tensor], dim: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "long_factor": _factors(tensors, LONG_FACTORS, dim),
        "short_factor": _factors(tensors, SHORT_FACTORS, dim),
        # without it the family's own rule holds
        "attention_factor": metadata.optional_number(f"{_SCALING}attn_factor"),
    }


def _frequency_factors(tensors: Mapping[str, Tensor], dim: int, factor: float) -> dict[str, Any]:
    """Return Llama 3's rule as the file has it: what each frequency is divided by."""
    divisors = [each * factor for each in _factors(tensors, FACTORS, dim)]
    return {
        "rope_type": "longrope",
        "long_factor": divisors,
        "short_factor": divisors,
        "attention_factor": 1.0,
    }


def _factors(tensors: Mapping[str, Tensor], name: str, dim: int) -> list[float]:
    if name not in tensors:
        raise ModelConfigError(name, "is missing")
    tensor = tensors[name]
    if tensor.type.name != "F32" or tensor.shape != (dim // 2,):
        problem = f"must be {dim // 2} numbers of F32, not {tensor.type.name} {tensor.shape}"
        raise ModelConfigError(name, problem)
    return list(tensor.data.cast("f"))
