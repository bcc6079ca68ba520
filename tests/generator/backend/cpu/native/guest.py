"""Guest process that runs kernels on copies of this process's memory, as guest.cpp answers.

So the classes that call kernels are tested as they are, with libraries of another processor: which
memory a kernel may touch is known from the addresses that were asked for.
"""

import ctypes
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

SOURCE = Path(__file__).with_name("guest.cpp")
_PROGRAM, _FUNCTION = range(2)
_LINE_BYTES = 64


class Memory:
    """What lies at the addresses of tensors and ctypes objects that anybody has asked for."""

    def __init__(self) -> None:
        self._tensors: dict[int, int] = {}  # bytes from there on
        self._objects: dict[int, type[ctypes.Structure]] = {}

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Note every address from now on."""
        data_ptr, addressof = torch.Tensor.data_ptr, ctypes.addressof

        def noting_data_ptr(tensor: torch.Tensor) -> int:
            address = data_ptr(tensor)
            self._note(tensor, address)
            return address

        def noting_addressof(value: ctypes.Structure) -> int:
            address = addressof(value)
            self._objects[address] = type(value)
            self._tensors.pop(address, None)
            return address

        patch.setattr(torch.Tensor, "data_ptr", noting_data_ptr)
        patch.setattr(ctypes, "addressof", noting_addressof)

    def _note(self, tensor: torch.Tensor, address: int) -> None:
        if not tensor.numel():
            return
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        num_elements = 1 + sum((size - 1) * stride for size, stride in steps)
        self._tensors[address] = num_elements * tensor.element_size()
        self._objects.pop(address, None)

    def reached(self, roots: Iterable[int]) -> "Reached":
        """Return all that can be read from these addresses on."""
        reached, left = Reached(), list(roots)
        while left:
            address = left.pop()
            if address in reached.extents:
                continue
            if (kind := self._objects.get(address)) is None:
                reached.add(address, self._tensors[address], is_tensor=True)
                continue
            reached.add(address, ctypes.sizeof(kind), is_tensor=False)
            value = kind.from_address(address)
            for name, offset in _pointers(kind):
                target = getattr(value, name)
                if target in self._objects or target in self._tensors:
                    reached.pointers[address + offset] = target
                    left.append(target)
        return reached


def _pointers(kind: type) -> list[tuple[str, int]]:
    """Return the names of a structure's pointers and where they lie in it."""
    fields = [each for base in kind.__mro__ for each in base.__dict__.get("_fields_", ())]
    pointers = [name for name, of in fields if of is ctypes.c_void_p]
    return [(name, getattr(kind, name).offset) for name in pointers]


class _Region(NamedTuple):
    begin: int
    end: int
    is_written: bool


class Reached:
    """Memory to be copied: ranges, and pointers into them that lie in them."""

    def __init__(self) -> None:
        self.extents: dict[int, tuple[int, bool]] = {}
        self.pointers: dict[int, int] = {}

    def add(self, address: int, num_bytes: int, is_tensor: bool) -> None:
        self.extents[address] = (num_bytes, is_tensor)

    def regions(self) -> list[_Region]:
        """Return the ranges, those that overlap as one."""
        merged: list[_Region] = []
        for begin, (size, is_tensor) in sorted(self.extents.items()):
            if merged and begin < merged[-1].end:
                last = merged.pop()
                merged.append(last._replace(end=max(last.end, begin + size)))
            else:
                merged.append(_Region(begin, begin + size, is_tensor))
        return merged


class Guest:
    """The process: it ends when its input does."""

    def __init__(self, command: Sequence[str], memory: Memory) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._memory = memory

    def run(self, calls: Sequence[tuple[str, int]], num_threads: int) -> None:
        """Run kernels, each by its name and the address of its arguments."""
        reached = self._memory.reached(address for _, address in calls)
        regions = reached.regions()
        before = [ctypes.string_at(each.begin, each.end - each.begin) for each in regions]
        request = [_numbers(_PROGRAM), *_memory(reached, regions, before)]
        request.append(_numbers(num_threads, len(calls)))
        for name, address in calls:
            request += [_text(f"{name}_items"), _text(f"{name}_run"), _place(regions, address)]
        self._send(request)
        for region, old in zip(regions, before, strict=True):
            if region.is_written:
                _write_changes(region.begin, old, self._receive(len(old)))

    def call(self, name: str, address: int | None, number: int) -> int:
        """Return what a function of an address, which may be none, and a number returns."""
        reached = self._memory.reached([] if address is None else [address])
        regions = reached.regions()
        before = [ctypes.string_at(each.begin, each.end - each.begin) for each in regions]
        place = b"" if address is None else _place(regions, address)
        memory = _memory(reached, regions, before)
        self._send([_numbers(_FUNCTION), *memory, _text(name), place, _numbers(number)])
        (value,) = struct.unpack("<q", self._receive(8))
        return int(value)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def _send(self, parts: Sequence[bytes]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(parts))
        self._process.stdin.flush()

    def _receive(self, num_bytes: int) -> bytes:
        assert self._process.stdout is not None
        answer = self._process.stdout.read(num_bytes)
        assert len(answer) == num_bytes, f"the guest ended: {self._process.wait(10)}"
        return answer


def _memory(reached: Reached, regions: Sequence[_Region], contents: list[bytes]) -> list[bytes]:
    parts = [_numbers(len(regions))]
    for region, content in zip(regions, contents, strict=True):
        parts += [
            _numbers(len(content), region.begin % _LINE_BYTES, int(region.is_written)),
            content,
        ]
    parts.append(_numbers(len(reached.pointers)))
    for pointer in reached.pointers.items():
        parts += [_place(regions, address) for address in pointer]
    return parts


def _place(regions: Sequence[_Region], address: int) -> bytes:
    for number, region in enumerate(regions):
        if region.begin <= address < region.end:
            return _numbers(number, address - region.begin)
    raise AssertionError(f"nothing is known of address {address:#x}")


def _numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def _text(value: str) -> bytes:
    return _numbers(len(value)) + value.encode()


def _write_changes(address: int, before: bytes, after: bytes) -> None:
    """Write what differs alone, since other objects may lie between the rows of a view."""
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    target = np.ctypeslib.as_array((ctypes.c_uint8 * len(after)).from_address(address))
    target[changed] = np.frombuffer(after, np.uint8)[changed]
