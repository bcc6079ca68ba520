"""A kernel as it is launched, to be compiled without a GPU."""

from dataclasses import dataclass, field
from typing import Any

POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}


@dataclass(frozen=True)
class CompileCase:
    """`types` are those of the arguments that are no constants, such as `*bf16`, `i32`, `fp32`.

    `aligned` are pointers and integers that the launcher is sure to give in multiples of 16.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    least: tuple[int, int] = (8, 0)
    aligned: tuple[str, ...] = field(default=())
