"""Layers of a decoder as one program of compiled kernels.

A pass writes where its batch lies into a few structs and runs the program: one call from Python for
hundreds of kernels, with the interpreter free during it. The kernels are those that the layers call
one by one elsewhere, so the bits are the same.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch

from services.generator.backend.cpu.attention.head_steps import (
    Angles,
    NativeHeadSteps,
    SteppedAttention,
)
from services.generator.backend.cpu.attention.native_attention import NativeAttention, PlanArguments
from services.generator.backend.cpu.gated_activation import CompiledGate
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.program import KernelCall, Program
from services.generator.backend.cpu.rms_norm import RMSNorm
from services.generator.model.kv_cache import KVCache, LayerCache
from services.generator.model.layer import Layer
from services.generator.model.mlp import MLP, NormedLinear, ResidualBranch
from services.generator.model.norm import Norm
from services.generator.model.rope import Rotation

_LEAST_ROWS = 64


class CompiledLayers:
    """Maps the residual stream through layers of one shape whose every part is a kernel."""

    def __init__(self, layers: "Sequence[_LayerKernels]") -> None:
        self._layers = layers
        self._rows = ctypes.c_int64()
        num_plans = 1 + max(layer.plan_index for layer in layers)
        self._plans = [PlanArguments() for _ in range(num_plans)]
        self._angles: list[Angles] = []
        self._hidden = torch.empty(0, 0)
        self._cache: KVCache | None = None
        self._recording: _Recording | None = None

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> "CompiledLayers | None":
        """Return the layers as a program, or None where some part is not a kernel."""
        kernels = [each for layer in layers if (each := _LayerKernels.of(layer)) is not None]
        return cls(kernels) if len(kernels) == len(layers) else None

    def __call__(
        self,
        hidden: torch.Tensor,
        cache: KVCache,
        plans: Sequence[Any],
        rotations: Sequence[Rotation],
        overlap: Callable[[], None],
    ) -> torch.Tensor:
        """Map [T, hidden] to [T, hidden], which is good until the next call.

        This thread calls `overlap` first, and the others begin without it.
        """
        num_rows = len(hidden)
        if self._recording is None or num_rows > len(self._hidden) or cache is not self._cache:
            capacity = max(_LEAST_ROWS, len(self._hidden), 1 << (num_rows - 1).bit_length())
            self._cache = cache
            self._hidden = hidden.new_empty(capacity, hidden.shape[1])
            self._angles = [Angles() for _ in rotations]
            self._recording = self._record(cache)
        # the calls have the addresses of these
        self._rows.value = num_rows
        for arguments, plan in zip(self._plans, plans, strict=True):
            ctypes.pointer(arguments)[0] = plan.arguments
        for angles, rotation in zip(self._angles, rotations, strict=True):
            ctypes.pointer(angles)[0] = Angles.of(rotation)
        self._hidden[:num_rows] = hidden
        self._recording.program.run(overlap)
        return self._hidden[:num_rows]

    def _record(self, cache: KVCache) -> "_Recording":
        buffers = _Buffers.of(self._layers[0], self._hidden)
        calls = []
        for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
            plan = self._plans[layer.plan_index]
            calls += _record(layer, buffers, self._rows, layer_cache, plan, self._angles)
        return _Recording(Program(calls), buffers)

    def __repr__(self) -> str:
        return f"CompiledLayers({len(self._layers)} layers, {len(self._hidden)} rows)"


class _BranchKernels(NamedTuple):
    """What ends by adding to the residual stream."""

    linear: NativeLinear
    norm: RMSNorm | None  # between the linear layer and the sum

    @classmethod
    def of(cls, branch: ResidualBranch) -> "_BranchKernels | None":
        if isinstance(branch, NativeLinear):
            return cls(branch, None)
        if isinstance(branch, NormedLinear) and isinstance(branch.linear, NativeLinear):
            norm = branch.norm
            return cls(branch.linear, norm) if _is_compiled(norm) else None
        return None


def _is_compiled(norm: Norm) -> TypeGuard[RMSNorm]:
    return isinstance(norm, RMSNorm) and norm.is_compiled


class _LayerKernels(NamedTuple):
    """A layer whose every part is a compiled kernel."""

    attention_norm: RMSNorm
    qkv: NativeLinear
    head_steps: NativeHeadSteps | None
    attention: NativeAttention
    plan_index: int
    out: _BranchKernels
    mlp_norm: RMSNorm
    up: NativeLinear
    gate: CompiledGate
    down: _BranchKernels

    @classmethod
    def of(cls, layer: Layer) -> "_LayerKernels | None":
        heads, mlp = layer.attention, layer.mlp
        if not isinstance(heads, SteppedAttention):
            return None
        steps, attention = heads.steps, heads.attention
        out = _BranchKernels.of(layer.out)
        down = _BranchKernels.of(mlp.down) if isinstance(mlp, MLP) else None
        if (
            _is_compiled(layer.attention_norm)
            and isinstance(layer.qkv, NativeLinear)
            and (not steps or (len(steps) == 1 and isinstance(steps[0], NativeHeadSteps)))
            and isinstance(attention, NativeAttention)
            and out is not None
            and _is_compiled(layer.mlp_norm)
            and isinstance(mlp, MLP)
            and isinstance(mlp.up, NativeLinear)
            and isinstance(mlp.activation, CompiledGate)
            and down is not None
        ):
            head_steps = steps[0] if steps and isinstance(steps[0], NativeHeadSteps) else None
            return cls(
                *(layer.attention_norm, layer.qkv, head_steps, attention, layer.plan_index),
                *(out, layer.mlp_norm, mlp.up, mlp.activation, down),
            )
        return None


class _Buffers(NamedTuple):
    """What the calls of all layers read and write."""

    hidden: torch.Tensor
    normed: torch.Tensor
    qkv: torch.Tensor
    attended: torch.Tensor
    gate_up: torch.Tensor
    gated: torch.Tensor
    scratch: torch.Tensor  # uint8

    @classmethod
    def of(cls, layer: _LayerKernels, hidden: torch.Tensor) -> "_Buffers":
        out, down = layer.out.linear, layer.down.linear

        def rows_of(width: int) -> torch.Tensor:
            return hidden.new_empty(len(hidden), width)

        linears = (layer.qkv, out, layer.up, down)
        num_bytes = max(linear.scratch_bytes(len(hidden)) for linear in linears)
        return cls(
            hidden,
            normed=torch.empty_like(hidden),
            qkv=rows_of(layer.qkv.out_features),
            attended=rows_of(out.in_features),
            gate_up=rows_of(layer.up.out_features),
            gated=rows_of(down.in_features),
            scratch=torch.empty(num_bytes, dtype=torch.uint8),
        )


class _Recording(NamedTuple):
    program: Program
    buffers: _Buffers  # whose addresses the program has


def _record(
    layer: _LayerKernels,
    buffers: _Buffers,
    rows: ctypes.c_int64,
    cache: LayerCache,
    plan: PlanArguments,
    angles: Sequence[Angles],
) -> list[KernelCall]:
    """Return the calls of one layer."""
    hidden, normed, qkv, attended, gate_up, gated, scratch = buffers
    calls = layer.attention_norm.calls(hidden, normed, rows)
    calls += layer.qkv.calls(normed, qkv, rows, scratch)
    if layer.head_steps is not None:
        calls += layer.head_steps.calls(qkv, rows, angles)
    calls += layer.attention.calls(qkv, cache, attended, plan)
    calls += _record_branch(layer.out, attended, buffers, rows)
    calls += layer.mlp_norm.calls(hidden, normed, rows)
    calls += layer.up.calls(normed, gate_up, rows, scratch)
    calls += layer.gate.calls(gate_up, gated, rows)
    calls += _record_branch(layer.down, gated, buffers, rows)
    return calls


def _record_branch(
    branch: _BranchKernels, x: torch.Tensor, buffers: _Buffers, rows: ctypes.c_int64
) -> list[KernelCall]:
    hidden, normed, scratch = buffers.hidden, buffers.normed, buffers.scratch
    if branch.norm is None:
        return branch.linear.calls(x, hidden, rows, scratch, residual=hidden)
    calls = branch.linear.calls(x, normed, rows, scratch)
    return calls + branch.norm.calls(normed, hidden, rows, residual=hidden)
