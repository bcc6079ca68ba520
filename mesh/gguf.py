"""GGUF files: a model's metadata and the places of its tensors, read by memory map.

The format is ggml's (docs/gguf.md of ggml-org/ggml, versions 2 and 3, little-endian). What a tensor
type means is not known here, only how many bytes its blocks take.
"""

import mmap
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
# where a file says more, its head is taken for damaged
_MAX_ENTRIES = 1 << 24
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
# numbers by their type: struct's letter
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class GGUFError(ValueError):
    """A file that is not readable GGUF; `field` names the entry or the file at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


class TensorType(NamedTuple):
    """A tensor type of ggml: so many elements are kept in a block of so many bytes."""

    name: str
    block_size: int
    block_bytes: int


# by their number in the file
TENSOR_TYPES: Mapping[int, TensorType] = {
    0: TensorType("F32", 1, 4), 1: TensorType("F16", 1, 2), 30: TensorType("BF16", 1, 2),
    28: TensorType("F64", 1, 8), 24: TensorType("I8", 1, 1), 25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4), 27: TensorType("I64", 1, 8),
    2: TensorType("Q4_0", 32, 18), 3: TensorType("Q4_1", 32, 20), 6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24), 8: TensorType("Q8_0", 32, 34), 9: TensorType("Q8_1", 32, 40),
    10: TensorType("Q2_K", 256, 84), 11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144), 13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210), 15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66), 17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98), 19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18), 21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82), 23: TensorType("IQ4_XS", 256, 136),
    29: TensorType("IQ1_M", 256, 56), 34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66), 39: TensorType("MXFP4", 32, 17),
}  # fmt: skip


class Tensor(NamedTuple):
    """A tensor as it lies in the file; `shape` has the outermost dimension first, as torch's."""

    type: TensorType
    shape: tuple[int, ...]
    data: memoryview  # bytes, [elements / block_size, block_bytes]


class GGUFFile:
    """The metadata and tensors of a model, of one file or of all files into which it is split.

    Metadata values are numbers, strings and lists of them. The memory map lives as long as the
    tensors that were taken from it.
    """

    def __init__(self, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.metadata = metadata
        self.tensors = tensors

    @classmethod
    def read(cls, path: Path) -> "GGUFFile":
        """Read the head of a file, and of its siblings if it is the first of several.

        Raises GGUFError for what is damaged, missing or of an unknown version, OSError for what
        cannot be opened.
        """
        paths = shards(path)
        heads = [_Head.read(each) for each in paths]
        num_shards = heads[0].metadata.get("split.count", 1)
        if num_shards not in (0, len(paths)):
            raise GGUFError(path.name, f"is one of {num_shards} files, and is not named as such")
        tensors: dict[str, Tensor] = {}
        for head in heads:
            tensors |= head.tensors
        return cls(heads[0].metadata, tensors)

    def __repr__(self) -> str:
        name = self.metadata.get("general.architecture", "?")
        return f"GGUFFile({name}, {len(self.metadata)} entries, {len(self.tensors)} tensors)"


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a model's path means: itself, or the only one in the folder.

    Of a split model it is the first file. None for a folder with safetensors, which is a Hugging
    Face checkpoint whatever lies beside. Raises GGUFError where a folder holds several models.
    """
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    if any(path.glob("*.safetensors")):
        return None
    firsts = [each for each in sorted(path.glob("*.gguf")) if _shard_number(each) == 1]
    if len(firsts) > 1:
        names = ", ".join(each.name for each in firsts)
        raise GGUFError(str(path), f"holds several models, name one of them: {names}")
    return firsts[0] if firsts else None


def model_name(path: Path) -> str:
    """Return what a model is called by its path: a folder's name, a file's without its ending."""
    whole = path.resolve()
    return _SHARD.sub("", whole.name).removesuffix(".gguf") if whole.is_file() else whole.name


def _shard_number(path: Path) -> int:
    match = _SHARD.search(path.name)
    return int(match[1]) if match else 1


def shards(path: Path) -> list[Path]:
    """Return the files of a model in their order; raises GGUFError naming one that is missing."""
    match = _SHARD.search(path.name)
    if match is None:
        return [path]
    stem, total = path.name[: match.start()], int(match[2])
    paths = [path.with_name(f"{stem}-{k:05}-of-{total:05}.gguf") for k in range(1, total + 1)]
    missing = [each.name for each in paths if not each.is_file()]
    if missing:
        raise GGUFError(path.name, f"is one of {total} files, and {missing[0]} is missing")
    return paths


class _Head(NamedTuple):
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "_Head":
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < len(_MAGIC):
                raise GGUFError(path.name, "is too short for a GGUF file")
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            return _Reader(path.name, memory).head()
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            raise GGUFError(path.name, f"is damaged or cut short: {error}") from error


class _Reader:
    """Reads the head from its start on."""

    def __init__(self, name: str, memory: memoryview) -> None:
        self._name = name
        self._memory = memory
        self._place = 0

    def head(self) -> _Head:
        if bytes(self._memory[:4]) != _MAGIC:
            raise GGUFError(self._name, "is not a GGUF file")
        self._place = 4
        version = self._number("I")
        if version not in _VERSIONS:
            known = " and ".join(map(str, _VERSIONS))
            raise GGUFError(self._name, f"is of GGUF version {version}; {known} are known")
        num_tensors, num_entries = self._count("tensors"), self._count("entries")
        metadata = {self._string(): self._value(self._number("I")) for _ in range(num_entries)}
        entries = [self._tensor_entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise GGUFError("general.alignment", f"must be a positive integer, not {alignment!r}")
        start = -(-self._place // alignment) * alignment
        return _Head(metadata, {entry.name: self._tensor(entry, start) for entry in entries})

    def _number(self, letter: str) -> Any:
        (value,) = struct.unpack_from(f"<{letter}", self._memory, self._place)
        self._place += struct.calcsize(letter)
        return value

    def _count(self, what: str) -> int:
        count: int = self._number("Q")
        if count > _MAX_ENTRIES:
            raise GGUFError(self._name, f"is damaged: it says that it has {count} {what}")
        return count

    def _string(self) -> str:
        size = self._number("Q")
        end = self._place + size
        if end > len(self._memory):
            raise GGUFError(self._name, "is damaged or cut short: a string goes past its end")
        text = str(self._memory[self._place : end], "utf-8")
        self._place = end
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _NUMBERS:
            raise GGUFError(self._name, f"is damaged: it has a value of unknown type {kind}")
        return self._number(_NUMBERS[kind])

    def _array(self) -> list[Any]:
        kind, count = self._number("I"), self._count("values in an array")
        if kind not in _NUMBERS:
            return [self._value(kind) for _ in range(count)]
        values = struct.unpack_from(f"<{count}{_NUMBERS[kind]}", self._memory, self._place)
        self._place += struct.calcsize(f"<{count}{_NUMBERS[kind]}")
        return list(values)

    def _tensor_entry(self) -> "_TensorEntry":
        name, num_dimensions = self._string(), self._number("I")
        if num_dimensions > _MAX_DIMENSIONS:
            raise GGUFError(name, f"has {num_dimensions} dimensions, more than {_MAX_DIMENSIONS}")
        sizes = [self._number("Q") for _ in range(num_dimensions)]
        return _TensorEntry(name, tuple(reversed(sizes)), self._number("I"), self._number("Q"))

    def _tensor(self, entry: "_TensorEntry", start: int) -> Tensor:
        if entry.type not in TENSOR_TYPES:
            raise GGUFError(entry.name, f"is of a tensor type that is not known: {entry.type}")
        kind = TENSOR_TYPES[entry.type]
        num_elements = 1
        for size in entry.shape:
            num_elements *= size
        row = entry.shape[-1] if entry.shape else 1
        if row % kind.block_size:
            problem = f"has rows of {row} elements, not whole {kind.name} blocks"
            raise GGUFError(entry.name, problem)
        begin = start + entry.offset
        end = begin + num_elements // kind.block_size * kind.block_bytes
        if end > len(self._memory):
            raise GGUFError(entry.name, f"goes past the end of {self._name}: it is cut short")
        return Tensor(kind, entry.shape, self._memory[begin:end])


class _TensorEntry(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
