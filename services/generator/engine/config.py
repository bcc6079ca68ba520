"""Engine configuration: what an operator chooses; every default is meant to be kept."""

from dataclasses import dataclass
from pathlib import Path

from services.generator.engine.errors import EngineConfigError

MAX_SPECULATIVE_TOKENS = 15
# on random traces 0.4 preempts 5-10 times less than greedy admission for 2-7 % more steps in bursts
DEFAULT_OUTPUT_QUANTILE = 0.4


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Validated on construction; raises EngineConfigError naming the first bad option.

    `max_batched_tokens` is the budget of one step: more makes prompts faster and the gap between
    two tokens longer. `kv_cache_bytes` None takes what `max_num_seqs` full contexts need, capped
    by a share of the free memory. `dtype` None keeps the checkpoint's. `seed` draws the seeds of
    requests that bring none. `output_quantile` of recent output lengths is what admission expects
    a request to generate: more preempts less and packs looser, 0 expects the next token only.
    The queue refuses beyond `max_queued_requests` and `max_queued_tokens` of prompts.
    `attention` torch keeps to torch's operations where auto takes the compiled kernel.
    `cpu_level` has the kernels of a lower level than the processor's serve; torch takes none.
    `batch_invariant` gives a request the same bits whatever runs beside it, at a small price.
    `quantization` int8 and int4 round the weights of all products in groups of 32 inputs. On a CPU
    weights of 4 and 8 bits are multiplied with rows of 8 bits; `exact` makes floats of them.
    `speculative_tokens` is how many guessed tokens a decode may try in one step. The service's
    setting is 7; 0, the default here, keeps one token to a step, as comparisons of engines want it.
    `target_step_s` is how long a step may take, as predicted, while streams decode; 0 sets none,
    None follows the streams: a step takes at most twice what their decodes alone would take, and
    more only while more prompts than streams wait. Streams then keep their pace, and first tokens
    come later. Without `prefix_caching` no request reuses what another computed.
    On the `device` cuda, the first GPU that CUDA shows, steps of decodes alone are recorded and
    replayed where `graphs`; `attention`, `cpu_level`, `num_threads` and `batch_invariant` are those
    of a CPU. `quantization` int8 and int4 round weights only there, fp8 (compute capability 9.0)
    rows too.
    `kv_cache_dtype` fp8, on such a GPU, keeps keys and values in eight bits, those beyond 448 cut.
    """

    model: Path
    dtype: str | None = None
    max_num_seqs: int = 64
    max_batched_tokens: int = 512
    block_size: int = 16
    kv_cache_bytes: int | None = None
    num_threads: int | None = None
    seed: int | None = None
    output_quantile: float = DEFAULT_OUTPUT_QUANTILE
    max_queued_requests: int | None = None
    max_queued_tokens: int | None = None
    target_step_s: float | None = 0.0
    prefix_caching: bool = True
    attention: str = "auto"
    cpu_level: str | None = None
    speculative_tokens: int = 0
    batch_invariant: bool = True
    quantization: str | None = None
    exact: bool = False
    device: str = "cpu"
    graphs: bool = True
    kv_cache_dtype: str | None = None

    def __post_init__(self) -> None:
        for field in ("max_num_seqs", "max_batched_tokens", "block_size"):
            if getattr(self, field) < 1:
                raise EngineConfigError(field, "must be at least 1")
        if self.max_batched_tokens < self.max_num_seqs:
            problem = f"{self.max_batched_tokens} is below a step's {self.max_num_seqs} sequences"
            raise EngineConfigError("max_batched_tokens", problem)
        if not 0 <= self.speculative_tokens <= MAX_SPECULATIVE_TOKENS:
            message = f"must be within [0, {MAX_SPECULATIVE_TOKENS}]"
            raise EngineConfigError("speculative_tokens", message)
        if self.attention not in ("auto", "torch"):
            raise EngineConfigError("attention", "must be auto or torch")
        if self.device not in ("cpu", "cuda"):
            raise EngineConfigError("device", "must be cpu or cuda")
        known = ("int8", "int4") if self.device == "cpu" else ("int8", "int4", "fp8")
        if self.quantization not in (None, *known):
            raise EngineConfigError("quantization", f"must be {', '.join(known)} or None")
        if self.kv_cache_dtype not in ((None,) if self.device == "cpu" else (None, "fp8")):
            raise EngineConfigError("kv_cache_dtype", "must be None, or fp8 on a GPU")
        if self.target_step_s is not None and self.target_step_s < 0.0:
            raise EngineConfigError("target_step_s", "must not be negative")
        if not 0.0 <= self.output_quantile < 1.0:
            raise EngineConfigError("output_quantile", "must be at least 0 and below 1")
        for field in ("kv_cache_bytes", "num_threads", "max_queued_requests", "max_queued_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise EngineConfigError(field, "must be at least 1, or None")
