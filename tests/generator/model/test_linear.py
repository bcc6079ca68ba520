"""Packed products against plain ones."""

import pytest
import torch
from torch.nn import functional

from services.generator.model.linear import Linear


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("packed", [True, False])
def test_a_linear_is_a_linear(
    dtype: torch.dtype,
    tolerance: float,
    rows: int,
    has_bias: bool,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Odd sizes, with and without bias and residual, packed or not: the same numbers."""
    if not packed:
        monkeypatch.setattr("services.generator.model.linear._can_pack", lambda dtype: False)
    torch.manual_seed(0)
    x, residual = torch.randn(rows, 37), torch.randn(rows, 51)
    weight, bias = torch.randn(51, 37), torch.randn(51) if has_bias else None
    linear = Linear(weight.to(dtype), None if bias is None else bias.to(dtype))
    expected = functional.linear(x, weight, bias)
    scale = expected.abs().max()
    with torch.inference_mode():
        plain = linear(x.to(dtype)).float()
        added = linear.add_to(x.to(dtype), residual.to(dtype)).float()
    assert (plain - expected).abs().max() / scale < tolerance
    assert (added - expected - residual).abs().max() / scale < tolerance
    assert ("packed" in repr(linear)) <= packed
