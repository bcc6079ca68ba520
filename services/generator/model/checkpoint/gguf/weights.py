"""The tensors of a GGUF file by their names there, memory-mapped."""

import math
from collections.abc import Iterator

import torch

from mesh.gguf import GGUFFile, Tensor
from services.generator.model.checkpoint.gguf import blocks
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.safetensors import TensorSize
from services.generator.model.errors import WeightError

# whose query and key rows are ordered for a rotation of neighbours, where ours turns halves
_INTERLEAVED = frozenset({"llama"})
# whose norms are kept with the one that is added to them
_RAISED = frozenset({"gemma2", "gemma3"})
_EMBEDDING = "token_embd.weight"


class GGUFWeights:
    """The `Weights` of a file; a name with a number at its end is that slice of a stack.

    `blk.0.ffn_up_exps.3.weight` is the fourth expert's matrix of `blk.0.ffn_up_exps.weight`.
    """

    def __init__(self, file: GGUFFile) -> None:
        self._tensors = file.tensors
        architecture = file.metadata.get("general.architecture", "")
        self._raises_norms = architecture in _RAISED
        self._num_heads: dict[str, int] = {}
        if architecture in _INTERLEAVED:
            heads = file.metadata[f"{architecture}.attention.head_count"]
            kv_heads = file.metadata.get(f"{architecture}.attention.head_count_kv", heads)
            self._num_heads = {"attn_q": heads, "attn_k": kv_heads}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or _slice_of(name)[0] in self._tensors

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor as floats; WeightError if absent, of another shape or not readable."""
        values = blocks.floats(name, self._find(name, shape))
        if self._raises_norms and name.endswith("norm.weight"):
            # exact where the stored one came of adding one
            return values.float() - 1.0
        order = self._row_order(name, len(values))
        return values if order is None else values[order]

    def grouped(self, name: str, *shape: int) -> GroupedWeight | None:
        """Return a matrix in groups, None where the file has it in floats; raises WeightError."""
        tensor = self._find(name, shape)
        if not blocks.is_grouped(tensor):
            return None
        weight = blocks.grouped(name, tensor)
        order = self._row_order(name, shape[0])
        return weight if order is None else weight.reordered(order)

    def sizes(self) -> Iterator[TensorSize]:
        """Yield the size of each tensor; stacks of experts become floats."""
        for name, tensor in self._tensors.items():
            dimensions = len(tensor.shape)
            bits = blocks.kept_bits(tensor) if dimensions == 2 else None
            yield TensorSize(name, math.prod(tensor.shape), bits, dimensions > 1)

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return what all tensors take where matrices of four bits stay, others become `dtype`.

        Experts and embeddings become `dtype` too.
        """
        return sum(
            len(each.data)
            if blocks.kept_bits(each) == 4 and len(each.shape) == 2 and name != _EMBEDDING
            else math.prod(each.shape) * dtype.itemsize
            for name, each in self._tensors.items()
        )

    def _find(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            stack, number = _slice_of(name)
            if stack not in self._tensors:
                raise WeightError(name, "is missing from the file")
            tensor = _slice(name, self._tensors[stack], number)
        if tensor.shape != shape:
            raise WeightError(name, f"has shape {tensor.shape}, expected {shape}")
        return tensor

    def _row_order(self, name: str, num_rows: int) -> torch.Tensor | None:
        """Return which rows of the file ours are, None where the order is the same."""
        num_heads = self._num_heads.get(name.split(".")[-2], 0)
        if not num_heads:
            return None
        if num_rows % (2 * num_heads):
            raise WeightError(name, f"has {num_rows} rows, which {num_heads} heads do not share")
        pairs = torch.arange(num_rows).view(num_heads, num_rows // num_heads // 2, 2)
        return pairs.transpose(1, 2).reshape(-1)

    def __repr__(self) -> str:
        return f"GGUFWeights({len(self._tensors)} tensors)"


def _slice_of(name: str) -> tuple[str, int]:
    """Return the stack that a slice's name means, and its number; ("", 0) for other names."""
    stem, _, part = name.rpartition(".")
    stack, _, number = stem.rpartition(".")
    return (f"{stack}.{part}", int(number)) if number.isdigit() and stack else ("", 0)


def _slice(name: str, stack: Tensor, number: int) -> Tensor:
    if len(stack.shape) != 3 or number >= stack.shape[0]:
        raise WeightError(name, f"is missing from a stack of shape {stack.shape}")
    size = len(stack.data) // stack.shape[0]
    data = stack.data[number * size : (number + 1) * size]
    return Tensor(stack.type, stack.shape[1:], data)
