"""What layers are made of, as one device computes it best: the seam between models and devices."""

from __future__ import annotations

from typing import Protocol

import torch

from services.generator.model.activation import Activation, activation
from services.generator.model.attention import Attention, attention
from services.generator.model.bf16_linear import bf16_linear
from services.generator.model.config import ModelConfig
from services.generator.model.gated_activation import gated_activation
from services.generator.model.heads import HeadNorm, HeadRotation, HeadStep
from services.generator.model.huge_pages import HugePages
from services.generator.model.int8_linear import int8_linear
from services.generator.model.linear import Linear
from services.generator.model.native_head_steps import NativeHeadSteps
from services.generator.model.norm import Norm, RMSNorm
from services.generator.model.projection import Projection


class Kernels(Protocol):
    """Makes the parts of a model of one configuration and dtype."""

    def attention(self, window: int | None) -> Attention:
        """Return what attends in layers with this window."""
        ...

    def head_steps(
        self, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> list[HeadStep]:
        """Return what happens to query and key heads first; None means no such step.

        `norm_weight` is float32 [query and key heads, head_dim].
        """
        ...

    def rms_norm(self, weight: torch.Tensor) -> Norm:
        """Return the norm of hidden states; `weight` is [hidden] of any dtype."""
        ...

    def activation(self) -> Activation:
        """Return what stands between up and down; where gated, of gate and up side by side."""
        ...

    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Projection:
        """Return the product with [out, in] weights; `adds` if it ends a branch."""
        ...

    def router(self, weight: torch.Tensor) -> Projection:
        """Return a product that is never quantised."""
        ...


class CpuKernels:
    """Compiled kernels where there is a compiler and they take the shape, else torch's operations.

    `backend` torch keeps to torch's operations. `quantization` int8 rounds all matrices but
    embeddings and routers.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        backend: str = "auto",
        quantization: str | None = None,
        batch_invariant: bool = True,
        block_size: int = 16,
    ) -> None:
        self._config = config
        self._dtype = dtype
        self._backend = backend
        self._quantization = quantization
        self._batch_invariant = batch_invariant
        self._block_size = block_size
        self._memory = HugePages()

    def attention(self, window: int | None) -> Attention:
        """See `Kernels`."""
        return attention(self._config, window, self._dtype, self._backend, self._block_size)

    def head_steps(
        self, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> list[HeadStep]:
        """See `Kernels`."""
        if norm_weight is None and rope_index is None:
            return []
        if self._backend != "torch" and NativeHeadSteps.serves(self._config, self._dtype):
            return [NativeHeadSteps(self._config, norm_weight, rope_index)]
        steps: list[HeadStep] = []
        if norm_weight is not None:
            steps.append(HeadNorm(norm_weight, self._config.norm_eps))
        if rope_index is not None:
            steps.append(HeadRotation(self._config, rope_index))
        return steps

    def rms_norm(self, weight: torch.Tensor) -> Norm:
        """See `Kernels`."""
        return RMSNorm(weight, self._config.norm_eps)

    def activation(self) -> Activation:
        """See `Kernels`."""
        name = self._config.activation
        if not self._config.family.is_gated:
            return activation(name, self._batch_invariant)
        return gated_activation(name, self._dtype, self._batch_invariant, self._backend)

    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Projection:
        """See `Kernels`."""
        if self._quantization == "int8":
            return int8_linear(weight, bias, memory=self._memory)
        ours = bf16_linear(weight, bias, self._memory)
        return ours or Linear(weight, bias, self._batch_invariant, adds)

    def router(self, weight: torch.Tensor) -> Projection:
        """See `Kernels`."""
        return Linear(weight, batch_invariant=self._batch_invariant)
