"""Compiles cases for a GPU that is not here; prints a line of JSON for each.

    python -m tests.generator.backend.gpu.triton.offline [--common]

A process of its own, because the interpreter's switch is read when a kernel is defined.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CASES = Path(__file__).parent / "cases"
PACKAGE = "tests.generator.backend.gpu.triton.cases"
CAPABILITIES = (80, 90)
# of one block, in bytes: compute capability 8.0 and 9.0
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


class Job(NamedTuple):
    """One case for one compute capability, by where it stands."""

    module: str
    index: int
    capability: int


def main() -> None:
    """Compile all, on as many processes as there are processors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--common", action="store_true", help="each kernel once: its first case, for sm_90"
    )
    jobs = common_jobs() if parser.parse_args().common else all_jobs()
    assert "TRITON_INTERPRET" not in os.environ, "the interpreter cannot compile"
    # a compiler's threads do not outlive a fork
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(os.sched_getaffinity(0))) as pool:
        for result in pool.imap(compiled, list(jobs)):
            print(json.dumps(result), flush=True)


def cases() -> Iterator[tuple[str, int, Any]]:
    """Yield each case with its module and its index there."""
    for path in sorted(CASES.glob("*.py")):
        if path.stem != "compile_case":
            module = importlib.import_module(f"{PACKAGE}.{path.stem}")
            for index, case in enumerate(module.CASES):
                yield path.stem, index, case


def all_jobs() -> Iterator[Job]:
    """Yield every case for every capability that its kernel is for."""
    for module, index, case in cases():
        for capability in CAPABILITIES:
            if capability >= 10 * case.least[0] + case.least[1]:
                yield Job(module, index, capability)


def common_jobs() -> Iterator[Job]:
    """Yield the first case of each kernel, the commonest, for the newest capability."""
    kernels = set()
    for module, index, case in cases():
        if case.kernel not in kernels:
            kernels.add(case.kernel)
            yield Job(module, index, CAPABILITIES[-1])


def compiled(job: Job) -> dict[str, Any]:
    """Return what one kernel takes of a multiprocessor, or the compiler's complaint."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    case = importlib.import_module(f"{PACKAGE}.{job.module}").CASES[job.index]
    result: dict[str, Any] = {"name": case.name, "capability": job.capability}
    names = case.kernel.arg_names
    signature = {name: case.types.get(name, "constexpr") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in case.aligned}
    try:
        source = ASTSource(case.kernel, signature, case.constants, aligned)
        options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
        target = GPUTarget("cuda", job.capability, 32)
        kernel = triton.compile(source, target=target, options=options)
    except Exception as error:
        return {**result, "error": f"{type(error).__name__}: {error}"[-2000:]}
    result["shared"] = kernel.metadata.shared
    result["shared_limit"] = SHARED_LIMIT[job.capability]
    return {**result, **usage(kernel.asm["cubin"])}


def usage(cubin: bytes) -> dict[str, int]:
    """Return registers, and the stack and local memory that only spills take."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert match is not None, text
    registers, stack, local = map(int, match.groups())
    return {"registers": registers, "stack": stack, "local": local}


if __name__ == "__main__":
    main()
