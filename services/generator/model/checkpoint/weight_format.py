"""Weight format: how matrices are quantised, from `quantization_config` of `config.json`.

Knows no torch. Which matrices are quantised is not read here, since the tools that write the lists
match names each in its own way: those of which the file has a `.qweight`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.generator.model.errors import ModelConfigError

Layout = Literal["gptq", "gptq_v2", "awq"]

SECTION = "quantization_config"
_LEAST_GROUP = 32  # what the kernels read at once, for one scale
_DEFAULT_GROUP = 128
# By method: what the files call a layout that is implemented; the first is assumed.
_LAYOUTS: Mapping[str, Mapping[str, Layout]] = {
    "gptq": {"gptq": "gptq", "gptq_v2": "gptq_v2"},
    "awq": {"gemm": "awq"},
}
_LAYOUT_FIELDS = ("version", "checkpoint_format", "format")
# Fields of which only this value is implemented; absent ones mean it.
_REQUIRED: Mapping[str, Any] = {
    "pack_dtype": "int32", "lm_head": False, "dynamic": {}, "is_marlin_format": False,
    "zero_point": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Four bits by GPTQ (arXiv:2210.17323) or AWQ (arXiv:2306.00978), in groups along the inputs.

    Classic GPTQ stores zeros less one, `gptq_v2` as they are. `group_size` inputs share a scale,
    None means all. Where `has_order`, the file must say by `g_idx` which inputs a group has.
    """

    layout: Layout
    group_size: int | None
    has_order: bool = False


def parse_weight_format(raw: Any) -> WeightFormat | None:
    """Return the format, None where nothing is quantised; ModelConfigError names the field."""
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        raise ModelConfigError(SECTION, f"must be an object, not {raw!r}")
    layouts = _LAYOUTS.get(str(raw.get("quant_method")))
    if layouts is None:
        raise _not_one_of("quant_method", raw.get("quant_method"), _LAYOUTS)
    if raw.get("bits") != 4:
        raise _error("bits", f"{raw.get('bits')} is not supported, only 4")
    for field, value in _REQUIRED.items():
        given = raw.get(field)
        if given is not None and given != value:
            raise _error(field, f"{given} is not supported, only {value}")
    return WeightFormat(_layout(raw, layouts), _group_size(raw), bool(raw.get("desc_act")))


def _layout(raw: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Layout:
    if raw.get("backend") == "llm-awq":
        raise _error("backend", "llm-awq is not supported: it packs in an order of its own")
    field = next((name for name in _LAYOUT_FIELDS if raw.get(name) is not None), None)
    if field is None:
        return next(iter(layouts.values()))
    name = str(raw[field]).lower()
    if name not in layouts:
        raise _not_one_of(field, name, layouts)
    return layouts[name]


def _group_size(raw: Mapping[str, Any]) -> int | None:
    size = raw.get("group_size", _DEFAULT_GROUP)
    if size == -1:
        return None
    if not isinstance(size, int) or size < 1 or size % _LEAST_GROUP:
        raise _error("group_size", f"must be -1 or a multiple of {_LEAST_GROUP}, not {size!r}")
    return size


def _not_one_of(field: str, value: Any, known: Mapping[str, Any]) -> ModelConfigError:
    return _error(field, f"{value} is not one of: {', '.join(sorted(known))}")


def _error(field: str, message: str) -> ModelConfigError:
    return ModelConfigError(f"{SECTION}.{field}", message)
