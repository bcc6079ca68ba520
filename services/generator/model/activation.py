"""Activation functions whose every element has the same bits wherever in a tensor it lies.

torch's own take another formula for what is left over after whole vectors, so that an element's
last bit depends on the number of rows. `exp`, `erf` and `tanh` do not, nor does plain arithmetic.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional

Activation = Callable[[torch.Tensor], torch.Tensor]


def activation(name: str, batch_invariant: bool = True) -> Activation:
    """Return silu, gelu or gelu_tanh, for any shape; torch's own unless `batch_invariant`."""
    return (_INVARIANT if batch_invariant else _FAST)[name]


def soft_cap_(x: torch.Tensor, cap: float) -> torch.Tensor:
    """Squeeze `x` smoothly into (-cap, cap), in place (Gemma 2, arXiv:2408.00118)."""
    return x.div_(cap).tanh_().mul_(cap)


def _silu(x: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide / wide.neg().exp_().add_(1.0)).to(x.dtype)


def _gelu(x: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * math.sqrt(0.5)).erf_().add_(1.0).mul_(wide).mul_(0.5).to(x.dtype)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    inner = (wide * wide).mul_(0.044715).add_(1.0).mul_(wide).mul_(math.sqrt(2.0 / math.pi))
    return inner.tanh_().add_(1.0).mul_(wide).mul_(0.5).to(x.dtype)


def _torch_gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


_INVARIANT: dict[str, Activation] = {"silu": _silu, "gelu": _gelu, "gelu_tanh": _gelu_tanh}
_FAST: dict[str, Activation] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": _torch_gelu_tanh,
}
