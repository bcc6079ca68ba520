"""What differs between layers of one model: rotary settings, window, experts. Knows no torch."""

from dataclasses import dataclass

from services.generator.model.checkpoint.families import Family
from services.generator.model.checkpoint.fields import Fields
from services.generator.model.checkpoint.rope_config import RopeConfig, parse_rope
from services.generator.model.errors import ModelConfigError

# where a file says more, it is taken for damaged
MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """A mixture of experts; `normalizes` makes the chosen experts' shares sum to 1."""

    num_experts: int
    num_chosen: int
    intermediate_size: int
    normalizes: bool


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What may differ between the layers of one model."""

    rope: RopeConfig | None
    window: int | None = None  # tokens that a query sees, itself included; None sees all
    experts: ExpertsConfig | None = None


def parse_layers(fields: Fields, family: Family, head_dim: int) -> tuple[LayerConfig, ...]:
    """Return every layer's settings, first to last; raises ModelConfigError."""
    num_layers = fields.positive("num_hidden_layers")
    if num_layers > MAX_LAYERS:
        raise ModelConfigError(fields.name("num_hidden_layers"), f"is above {MAX_LAYERS}")
    ropes: tuple[RopeConfig | None, ...] = (None, None)
    if family.has_rope:
        ropes = parse_rope(fields, head_dim, family.local_theta)
    return tuple(
        LayerConfig(ropes[window is not None], window, experts)
        for window, experts in zip(
            _windows(fields, family, num_layers), _experts(fields, family, num_layers), strict=True
        )
    )


def _windows(fields: Fields, family: Family, num_layers: int) -> list[int | None]:
    if family.window == "none" or not fields.get("use_sliding_window", True):
        return [None] * num_layers
    kinds = fields.get("layer_types")
    if family.window == "every":
        is_windowed = [True] * num_layers
    elif kinds is not None:
        is_windowed = [_is_sliding(kind) for kind in kinds]
        if len(is_windowed) != num_layers:
            raise ModelConfigError("layer_types", f"must list {num_layers} layers")
    elif family.window == "upper":
        first = fields.get("max_window_layers", num_layers)
        is_windowed = [index >= first for index in range(num_layers)]
    else:
        pattern = fields.positive("sliding_window_pattern")
        is_windowed = [(index + 1) % pattern > 0 for index in range(num_layers)]
    if not any(is_windowed) or fields.get("sliding_window") is None:
        return [None] * num_layers
    window = fields.positive("sliding_window")
    return [window if windowed else None for windowed in is_windowed]


def _is_sliding(kind: str) -> bool:
    if kind not in ("sliding_attention", "full_attention"):
        raise ModelConfigError("layer_types", f"{kind} is not supported")
    return kind == "sliding_attention"


def _experts(fields: Fields, family: Family, num_layers: int) -> list[ExpertsConfig | None]:
    if family.weights.experts is None:
        return [None] * num_layers
    experts = ExpertsConfig(
        num_experts=fields.positive("num_experts"),
        num_chosen=fields.positive("num_experts_per_tok"),
        intermediate_size=fields.positive("moe_intermediate_size"),
        normalizes=fields.flag("norm_topk_prob"),
    )
    if experts.num_chosen > experts.num_experts:
        raise ModelConfigError("num_experts_per_tok", f"is above {experts.num_experts} experts")
    dense = fields.get("mlp_only_layers", [])
    step = fields.positive("decoder_sparse_step", 1)
    return [
        None if index in dense or (index + 1) % step else experts for index in range(num_layers)
    ]
