"""Quantised weights against torch's bfloat16 product of the same."""

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional

from bench.gpu.cases.case import BF16, Calls, Case
from services.generator.backend.gpu.layers.grouped_linear import GroupedLinear
from services.generator.backend.gpu.triton.linear.int4_packing import BLOCK, pack_int4
from services.generator.backend.gpu.triton.linear.linear_fp8 import linear_fp8, quantize_fp8
from services.generator.backend.gpu.triton.linear.linear_w4a16 import linear_w4a16
from services.generator.backend.gpu.triton.linear.linear_w8a16 import linear_w8a16
from services.generator.backend.gpu.triton.reference.linear import w4a16_weight
from services.generator.model.checkpoint.grouped_weight import GroupedWeight

# two of Llama-3-8B, one of Qwen3-0.6B
SHAPES = ((14336, 4096), (4096, 14336), (6144, 1024))
GROUP = 128
W4A16_AIM = 0.70
# a smaller weight is read in the time that a launch takes
AIM_WEIGHTS = 2**25


def linears() -> Iterator[Case]:
    """Yield each kind at each batch; at 1 a 4-bit product has an aim."""
    for columns, depth in SHAPES:
        for rows in (1, 16, 64, 256):
            shape = (rows, depth, columns)
            name = f"{rows} x {depth} -> {columns}"
            num_flops = 2 * rows * columns * depth
            moved = 2 * rows * (columns + depth)
            weights = columns * depth
            aim = W4A16_AIM if rows == 1 and weights >= AIM_WEIGHTS else None
            four = moved + weights / 2 + 4 * weights / GROUP
            yield Case(f"w4a16, {name}", partial(w4a16, *shape), four, num_flops, aim)
            yield from _grouped(name, shape, num_flops)
            yield Case(f"w8a16, {name}", partial(w8a16, *shape), moved + weights, num_flops)
            if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0):
                eight = moved + weights - rows * depth
                yield Case(f"fp8, {name}", partial(fp8, *shape), eight, num_flops)


def _grouped(name: str, shape: tuple[int, int, int], num_flops: float) -> Iterator[Case]:
    """Yield GGUF's kinds of four bits; scales and offsets are float16 or float32."""
    rows, depth, columns = shape
    moved = 2 * rows * (columns + depth) + columns * depth / 2
    for kind, unit_bytes in (("q4_0", 4), ("q4_1", 4), ("q4_k", 8)):
        num_bytes = moved + unit_bytes * columns * depth / BLOCK
        yield Case(f"w4a16 {kind}, {name}", partial(grouped, kind, *shape), num_bytes, num_flops)


def w8a16(rows: int, depth: int, columns: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    x = torch.randn(rows, depth, dtype=dtype)
    weight = torch.randint(-127, 128, (columns, depth), dtype=torch.int8)
    scales = torch.rand(columns) / 127 / depth**0.5
    whole = (weight * scales[:, None]).to(dtype)
    return partial(linear_w8a16, x, weight, scales), partial(functional.linear, x, whole)


def w4a16(rows: int, depth: int, columns: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case, in groups of 128."""
    x = torch.randn(rows, depth, dtype=dtype)
    values = torch.randint(0, 16, (depth, columns), dtype=torch.int8)
    zeros = torch.randint(0, 16, (depth // GROUP, columns), dtype=torch.int8)
    scales = (torch.rand(depth // GROUP, columns) / 8 / depth**0.5).half()
    whole = w4a16_weight(values, zeros, scales).to(dtype)
    ours = partial(linear_w4a16, x, *pack_int4(values, zeros, scales))
    return ours, partial(functional.linear, x, whole)


def grouped(kind: str, rows: int, depth: int, columns: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case, of weights in GGUF's groups of 32."""
    x = torch.randn(rows, depth, dtype=dtype)
    values = torch.randint(0, 16, (columns, depth), dtype=torch.int8)
    scales = (torch.rand(columns, depth // BLOCK) / 8 / depth**0.5).half().float()
    offsets = None if kind == "q4_0" else (-8 * torch.rand_like(scales) * scales).half().float()
    if kind == "q4_0":
        values -= 8
    elif kind == "q4_k":  # six bits more than a float16 has
        scales *= torch.randint(33, 64, scales.shape) / 48
    weight = GroupedWeight(values, scales, offsets, BLOCK, bits=4)
    ours = partial(GroupedLinear([weight], None, x.device), x)
    return ours, partial(functional.linear, x, weight.dequantized(dtype))


def fp8(rows: int, depth: int, columns: int) -> Calls:
    """Return both calls of one case, of the same rounded numbers."""
    x, x_scale = quantize_fp8(torch.randn(rows, depth, dtype=BF16))
    weight, scale = quantize_fp8(torch.randn(columns, depth, dtype=BF16))
    rounded = (x.float() * x_scale[:, None]).to(BF16)
    whole = (weight.float() * scale[:, None]).to(BF16)
    ours = partial(linear_fp8, x, weight, x_scale, scale)
    return ours, partial(functional.linear, rounded, whole)
