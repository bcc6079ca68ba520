"""What the kernels over a whole vocabulary have in common: checks, and the tiles that they use."""

import torch
import triton

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)

FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})
WARP = 32


def require_logits(logits: torch.Tensor) -> None:
    """Raise KernelError unless this is [S, V] of floats, V at least 1; rows may lie apart."""
    require_shape("logits", logits, None, None)
    require_dtype("logits", logits, FLOATS)
    require_rows("logits", logits)
    if not logits.shape[1]:
        raise KernelError("logits", "has no vocabulary")


def require_per_row(name: str, tensor: torch.Tensor, rows: int, dtype: torch.dtype) -> None:
    """Raise KernelError unless there is one value of this dtype per row."""
    require_shape(name, tensor, rows)
    require_dtype(name, tensor, {dtype})
    require_contiguous(name, tensor)


def tile_and_warps(vocab: int, largest: int, per_thread: int) -> tuple[int, int]:
    """Return a tile of the vocabulary, and the warps that hold so many elements to a thread."""
    tile = min(largest, max(16, triton.next_power_of_2(vocab)))
    return tile, max(1, tile // (WARP * per_thread))
