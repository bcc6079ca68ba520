"""Every kernel that is timed, in shapes of Llama-3-8B, Qwen3-0.6B and Qwen3-30B-A3B."""

import itertools
from collections.abc import Iterator

from bench.gpu.cases.attention import attention
from bench.gpu.cases.case import Case
from bench.gpu.cases.elementwise import elementwise
from bench.gpu.cases.experts import experts
from bench.gpu.cases.linear import linears
from bench.gpu.cases.sampling import sampling


def cases() -> Iterator[Case]:
    """Yield them, those with aims first."""
    yield from itertools.chain(elementwise(), attention(), linears(), experts(), sampling())
