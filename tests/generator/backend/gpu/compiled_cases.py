"""Launches every kernel that `bench.gpu` times on a GPU that is not here; a line of JSON for each.

    python -m tests.generator.backend.gpu.compiled_cases

At the bench's own sizes, of zeros, which take no memory before they are read. A process of its own,
because the interpreter's switch is read when a kernel is defined.
"""

import gc
import json
import os
from typing import Any

import torch

CAPABILITY = 90


def main() -> None:
    """Launch ours of each case once; torch's is not run."""
    assert "TRITON_INTERPRET" not in os.environ, "the interpreter cannot compile"
    from triton.runtime.driver import driver

    from bench.gpu.cases import cases
    from tests.generator.backend.gpu.offline_driver import OfflineDriver, zero_what_is_empty

    def zeros(*shape: Any, generator: Any = None, **options: Any) -> torch.Tensor:
        return torch.zeros(*shape, **options)

    zero_what_is_empty()
    torch.randn = zeros  # type: ignore[assignment]
    absent = OfflineDriver(CAPABILITY)
    driver.set_active(absent)
    for case in cases():
        before = absent.num_launches
        ours, _ = case.make()
        ours()
        spilled = [loaded.name for loaded in absent.loaded if loaded.spilled]
        row = {
            "name": case.name,
            "launches": absent.num_launches - before,
            "spilled": spilled,
        }
        print(json.dumps(row), flush=True)
        del ours, _
        gc.collect()


if __name__ == "__main__":
    main()
