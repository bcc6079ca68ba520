"""Packed products against plain ones."""

import pytest
import torch
from torch.nn import functional

from services.generator.backend.cpu.linear.onednn_linear import OneDnnLinear
from services.generator.backend.cpu.linear.row_tiling import ANY_ROWS, Product, RowTiling


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
        monkeypatch.setattr(
            "services.generator.backend.cpu.linear.onednn_linear._can_pack", lambda dtype: False
        )
    torch.manual_seed(0)
    x, residual = torch.randn(rows, 37), torch.randn(rows, 51)
    weight, bias = torch.randn(51, 37), torch.randn(51) if has_bias else None
    linear = OneDnnLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
    expected = functional.linear(x, weight, bias)
    scale = expected.abs().max()
    with torch.inference_mode():
        plain = linear(x.to(dtype)).float()
        added = linear.add_to(x.to(dtype), residual.to(dtype)).float()
    assert (plain - expected).abs().max() / scale < tolerance
    assert (added - expected - residual).abs().max() / scale < tolerance
    assert ("packed" in repr(linear)) <= packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 128), (37, 51), (3072, 64), (2048, 160)])
@pytest.mark.parametrize("packed", [True, False])
def test_a_row_has_the_same_bits_beside_any_others(
    dtype: torch.dtype,
    inputs: int,
    outputs: int,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Alone, in batches of many sizes, beyond the largest call, at any place, with a residual."""
    if not packed:
        monkeypatch.setattr(
            "services.generator.backend.cpu.linear.onednn_linear._can_pack", lambda dtype: False
        )
    torch.manual_seed(0)
    linear = OneDnnLinear(torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype))
    x, residual = torch.randn(530, inputs).to(dtype), torch.randn(530, outputs).to(dtype)
    with torch.inference_mode():
        plain, added = linear(x), linear.add_to(x, residual)
        for rows in (1, 2, 3, 5, 6, 7, 10, 11, 13, 30, 34, 50, 100, 130, 300, 513):
            for some in (slice(0, rows), slice(530 - rows, 530)):
                assert torch.equal(linear(x[some]), plain[some])
                assert torch.equal(linear.add_to(x[some], residual[some]), added[some])


def test_without_batch_invariance_a_call_is_one_product() -> None:
    """Nothing is probed, padded or cut."""
    linear = OneDnnLinear(torch.randn(8, 4096), batch_invariant=False)
    assert "least=0" in repr(linear)
    assert linear(torch.randn(1, 4096)).shape == (1, 8)


@pytest.mark.parametrize("adds", [False, True])
def test_only_the_call_that_is_announced_is_probed_at_load(
    adds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is probed when it is first used, and no more than once."""
    probed = []

    def find(product: Product, *shape_and_dtype: object) -> RowTiling:
        probed.append(product.__name__)
        return ANY_ROWS

    monkeypatch.setattr("services.generator.backend.cpu.linear.onednn_linear.find_tiling", find)
    monkeypatch.setattr("services.generator.backend.cpu.linear.onednn_linear._tilings", {})
    x, residual = torch.randn(1, 23), torch.randn(1, 29)
    linears = [OneDnnLinear(torch.randn(29, 23), adds=adds) for _ in range(2)]
    names = ["_multiply", "_multiply_and_add"]
    assert probed == [names[adds]]
    with torch.inference_mode():
        for linear in linears:
            linear(x)
            linear.add_to(x, residual)
    assert probed == [names[adds], names[not adds]]
