"""Compiles every case for a GPU that is not here; prints a line of JSON for each.

    python -m tests.generator.backend.gpu.triton.offline

A process of its own, because the interpreter's switch is read when a kernel is defined.
"""

import importlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
PACKAGE = "tests.generator.backend.gpu.triton.cases"
CAPABILITIES = (80, 90)
# of one block, in bytes: compute capability 8.0 and 9.0
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}


def main() -> None:
    """Compile all, on as many processes as there are processors."""
    assert "TRITON_INTERPRET" not in os.environ, "the interpreter cannot compile"
    for path in sorted(CASES.glob("*.py")):
        if path.stem != "compile_case":
            module = importlib.import_module(
                f"tests.generator.backend.gpu.triton.cases.{path.stem}"
            )
            for case in module.CASES:
                for capability in CAPABILITIES:
                    if capability >= 10 * case.least[0] + case.least[1]:
                        print(json.dumps(compiled(case, capability)), flush=True)


def compiled(case: Any, capability: int) -> dict[str, Any]:
    """Return what one kernel takes of a multiprocessor, or the compiler's complaint."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    told: dict[str, Any] = {"name": case.name, "capability": capability}
    names = case.kernel.arg_names
    signature = {name: case.types.get(name, "constexpr") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in case.aligned}
    try:
        source = ASTSource(case.kernel, signature, case.constants, aligned)
        options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        return {**told, "error": f"{type(error).__name__}: {error}"[-2000:]}
    told["shared"] = kernel.metadata.shared
    told["shared_limit"] = SHARED_LIMIT[capability]
    return {**told, **usage(kernel.asm["cubin"])}


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
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found is not None, text
    registers, stack, local = map(int, found.groups())
    return {"registers": registers, "stack": stack, "local": local}


if __name__ == "__main__":
    main()
