"""How fast this machine reads memory, as the floor under decoding one sequence.

    python -m bench.bandwidth [--passes 20]

Prints it for huge pages, in which weights lie, and for ordinary ones; passes take turns.
"""

import argparse
import os
import time

import torch

from services.generator.backend.cpu.huge_pages import HugePages

BUFFER_BYTES = 2**29
"""Beyond any last-level cache, so that every pass comes from memory."""


def read_bytes_per_s(passes: int = 5) -> float:
    """Return the best rate at which all cores together sum a large buffer of float32.

    In cache the same sum runs several times faster, so memory is what it waits for. The buffer lies
    in huge pages: in others the translation of addresses may be what limits.
    """
    return _fastest([HugePages(0).zeros((BUFFER_BYTES // 4,), torch.float32)], passes)[0]


def main() -> None:
    """Measure both kinds of pages in one run and print them."""
    parser = argparse.ArgumentParser("bench.bandwidth", description=__doc__)
    parser.add_argument("--passes", type=int, default=20)
    options = parser.parse_args()
    shape = (BUFFER_BYTES // 4,)
    buffers = [HugePages(0).zeros(shape, torch.float32), torch.empty(shape)]
    huge, plain = _fastest(buffers, options.passes)
    ratio = huge / plain
    print(f"pages of 2 MiB: {huge / 1e9:.1f} GB/s, of 4 KiB: {plain / 1e9:.1f}, {ratio:.2f}x")


def _fastest(buffers: list[torch.Tensor], passes: int) -> list[float]:
    """Return the best bytes per second of each buffer; they take turns."""
    for buffer in buffers:
        buffer.fill_(1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        taken_s = [[_timed_sum(buffer) for buffer in buffers] for _ in range(passes)]
    finally:
        torch.set_num_threads(before)
    return [BUFFER_BYTES / min(times_s) for times_s in zip(*taken_s, strict=True)]


def _timed_sum(buffer: torch.Tensor) -> float:
    started_s = time.perf_counter()
    buffer.sum()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
