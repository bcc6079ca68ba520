"""The gateway under test: of a stack started here, or of one that the environment names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.fuzz.case import KEY
from tests.e2e.stack import Address, Stack


@contextmanager
def target(folder: Path) -> Iterator[tuple[Address, Path | None]]:
    """Yield the address of a ready stack, and its folder where it is ours.

    INFERMESH_E2E_URL and INFERMESH_E2E_KEY name a running one.
    """
    if url := os.environ.get("INFERMESH_E2E_URL"):
        yield Address(url, os.environ["INFERMESH_E2E_KEY"]), None
        return
    stack = Stack(folder, INFERMESH_GATEWAY_DEV_KEY=KEY)
    try:
        stack.wait_ready()
        yield Address(f"http://127.0.0.1:{stack.port}", KEY), folder
    finally:
        stack.stop()
