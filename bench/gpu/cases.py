"""Every kernel that is timed, in shapes of Llama-3-8B, Qwen3-0.6B and Qwen3-30B-A3B."""

import itertools
from collections.abc import Iterator

from bench.gpu.attention_cases import attention
from bench.gpu.case import Case
from bench.gpu.elementwise_cases import elementwise
from bench.gpu.expert_cases import experts
from bench.gpu.linear_cases import linears
from bench.gpu.sampling_cases import sampling


def cases() -> Iterator[Case]:
    """Yield them, those with aims first."""
    yield from itertools.chain(elementwise(), attention(), linears(), experts(), sampling())
