"""Marks for tests that run by torch's operations and by a compiled kernel."""

import pytest

from services.generator.backend.cpu.native import compiler


def needs(library: str) -> pytest.MarkDecorator:
    """Skip where nothing compiles this source."""
    absent = compiler.library(library) is None
    return pytest.mark.skipif(absent, reason=f"no C++ compiler is here for {library}")


def torch_and_compiled(library: str) -> pytest.MarkDecorator:
    """Run with `kernels` torch, and auto where the source is compiled."""
    return pytest.mark.parametrize("kernels", ["torch", pytest.param("auto", marks=needs(library))])
