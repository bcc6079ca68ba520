"""Linear layers by oneDNN, with weights repacked once."""

import functools
import platform

import torch
from torch.nn import functional

from services.generator.backend.cpu.linear.row_tiling import (
    ANY_ROWS,
    Product,
    RowTiling,
    find_tiling,
)

# Any hint from 2 up gives the same blocked layout; a hint of 1 gives one that is slow for batches.
_BATCH_HINT = 32

# By what decides which kernel a library takes.
_tilings: dict[tuple[object, ...], RowTiling] = {}


class OneDnnLinear:
    """`x @ weight.T + bias` for [T, in] rows.

    Where oneDNN can, the weight is kept in oneDNN's own blocked layout: 1.3 to 4 times faster than
    `functional.linear`, which repacks or strides on each call (2-core Zen 5, 1 to 512 rows).
    Where `batch_invariant`, a row's result has the same bits beside any other rows; whether it
    `adds` says which of both calls is probed for that at load, the other one is when it is used.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        batch_invariant: bool = True,
        adds: bool = False,
    ) -> None:
        self.out_features, self.in_features = weight.shape
        self._bias = bias
        self._is_packed = _can_pack(weight.dtype)
        self._weight = _pack(weight) if self._is_packed else weight.contiguous()
        self._batch_invariant = batch_invariant
        self._main_tiling = self._adding_tiling if adds else self._tiling

    @property
    def kind(self) -> str:
        """See `Linear`."""
        return f"{str(self._weight.dtype).removeprefix('torch.')} weights by oneDNN"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        return self._tiling.apply(self._multiply, x)

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`, in one pass where oneDNN can."""
        return self._adding_tiling.apply(self._multiply_and_add, x, residual)

    def _multiply(self, x: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
        if self._is_packed:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, "none", [], ""
            )
            return out
        return functional.linear(x, self._weight, self._bias)

    def _multiply_and_add(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        if self._is_packed:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self._weight, self._bias, "add"
            )
            return out
        assert residual is not None, "nothing to add to. This is a bug."
        return residual + functional.linear(x, self._weight, self._bias)

    @functools.cached_property
    def _tiling(self) -> RowTiling:
        return self._find_tiling(self._multiply, adds=False)

    @functools.cached_property
    def _adding_tiling(self) -> RowTiling:
        return self._find_tiling(self._multiply_and_add, adds=True)

    def _find_tiling(self, product: Product, adds: bool) -> RowTiling:
        if not self._batch_invariant:
            return ANY_ROWS
        shape = (self.in_features, self.out_features)
        dtype = self._weight.dtype
        key = (*shape, dtype, adds, self._is_packed, self._bias is None, torch.get_num_threads())
        if key not in _tilings:
            _tilings[key] = find_tiling(product, *shape, dtype, adds)
        return _tilings[key]

    def __repr__(self) -> str:
        layout = "packed" if self._is_packed else "plain"
        sizes = f"{self.in_features} -> {self.out_features}"
        return f"OneDnnLinear({sizes}, {layout}, {self._main_tiling})"


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _BATCH_HINT)
    return packed
