"""Head steps: norms (QK norm) and RoPE of query and key heads before attention, in place.

In one pass of a compiled kernel where it takes the shape, else step by step.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from services.generator.backend.cpu.attention.paged_attention import Attention
from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, Program, find_kernel
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.kv_cache import LayerCache
from services.generator.model.rope import Rotation

_DTYPES = frozenset({torch.float32, torch.bfloat16})
# DIM of the source, and the step of head sizes that it takes.
_MAX_HEAD_DIM = 256
_HEAD_DIM_STEP = 16

# Changes [T, q_size + 2 kv_size] in place, with one rotation per kind of layer.
HeadStep = Callable[[torch.Tensor, Sequence[Rotation]], None]


@dataclass(frozen=True, slots=True)
class SteppedAttention:
    """Steps on the heads in place, one after the other, then attention."""

    steps: tuple[HeadStep, ...]
    attention: Attention

    def __call__(
        self, qkv: torch.Tensor, cache: LayerCache, plan: Any, rotations: Sequence[Rotation]
    ) -> torch.Tensor:
        """See `HeadAttention`."""
        for step in self.steps:
            step(qkv, rotations)
        return self.attention(qkv, cache, plan)


class HeadNorm:
    """RMS norm of each query and key head by itself, in float32 (arXiv:2010.04245)."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        """`weight` is float32 [query heads + key heads, head_dim]."""
        self._weight = weight
        self._eps = eps

    def __call__(self, qkv: torch.Tensor, rotations: Sequence[Rotation]) -> None:
        heads = qkv[:, : self._weight.numel()].view(len(qkv), *self._weight.shape)
        normed = functional.rms_norm(heads.float(), heads.shape[-1:], eps=self._eps)
        heads.copy_(normed.mul_(self._weight))


class HeadRotation:
    """Turns the first `dim` dimensions of each query and key head by the token's position."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        """`index` is that of the layer's setting in `config.ropes`."""
        dim = config.ropes[index].dim
        self._index = index
        self._shape = (config.num_heads + config.num_kv_heads, 2, dim // 2)
        self._strides = (config.head_dim, dim // 2, 1)

    def __call__(self, qkv: torch.Tensor, rotations: Sequence[Rotation]) -> None:
        heads = qkv.as_strided((qkv.shape[0], *self._shape), (qkv.stride(0), *self._strides))
        rotations[self._index].apply_(heads)


class Angles(ctypes.Structure):
    """Mirrors `struct Angles` of head_steps.cpp."""

    _fields_ = (("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p))

    @classmethod
    def of(cls, rotation: Rotation) -> "Angles":
        """Return the addresses of a rotation, which has to outlive them."""
        return cls(rotation.cos.data_ptr(), rotation.sin.data_ptr())


class _HeadSteps(ctypes.Structure):
    """Mirrors `struct HeadSteps` of head_steps.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "weight", "angles", "rows")),
        ("stride", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("heads", "dim", "rotated")),
        ("eps", ctypes.c_float),
        ("is_bfloat16", ctypes.c_bool),
    )


class NativeHeadSteps:
    """A `HeadStep` for all that happens to heads in a layer."""

    def __init__(
        self, config: ModelConfig, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> None:
        """`norm_weight` is float32 [query and key heads, head_dim]; None means no such step."""
        library = compiler.library("head_steps")
        assert library is not None, "made where it does not serve. This is a bug."
        self._rope_index = rope_index
        self._kernel = find_kernel(library, "head_steps")
        self._weight = None if norm_weight is None else norm_weight.contiguous()
        self._eps = config.norm_eps
        self._heads = config.num_heads + config.num_kv_heads
        self._dim = config.head_dim
        self._rotated = 0 if rope_index is None else config.ropes[rope_index].dim

    @staticmethod
    def serves(config: ModelConfig, dtype: torch.dtype) -> bool:
        """Return whether the kernel is here and takes this shape."""
        fits = config.head_dim % _HEAD_DIM_STEP == 0 and config.head_dim <= _MAX_HEAD_DIM
        return fits and dtype in _DTYPES and compiler.library("head_steps") is not None

    def calls(
        self, qkv: torch.Tensor, rows: ctypes.c_int64, angles: Sequence[Angles]
    ) -> list[KernelCall]:
        """Return what changes the first `rows` rows of `qkv` in place.

        `angles` has an entry for each kind of layer, to be filled in before the calls are run.
        """
        own = None if self._rope_index is None else angles[self._rope_index]
        arguments = _HeadSteps(
            qkv=qkv.data_ptr(),
            weight=None if self._weight is None else self._weight.data_ptr(),
            angles=None if own is None else ctypes.addressof(own),
            rows=ctypes.addressof(rows),
            stride=qkv.stride(0),
            heads=self._heads,
            dim=self._dim,
            rotated=self._rotated,
            eps=self._eps,
            is_bfloat16=qkv.dtype == torch.bfloat16,
        )
        return [KernelCall(self._kernel, arguments)]

    def __call__(self, qkv: torch.Tensor, rotations: Sequence[Rotation]) -> None:
        rows = ctypes.c_int64(len(qkv))
        angles = [Angles.of(rotation) for rotation in rotations]
        Program(self.calls(qkv, rows, angles)).run()
