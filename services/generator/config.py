"""The generator's settings."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mesh.config import Settings, variables
from services.generator.backend.mock.config import MockConfig
from services.generator.engine import EngineConfig

# where the engine's name for an option is not the setting's
_FIELDS = {
    "max_num_seqs": "max_sequences",
    "max_queued_tokens": "max_waiting_tokens",
    "kv_cache_bytes": "kv_cache_mb",
    "num_threads": "threads",
    "target_step_s": "target_step_ms",
}

# by device: sequences and tokens of a step, where both are left to us
_SIZES = {"cpu": (64, 512), "cuda": (256, 8192)}


class GeneratorSettings(Settings):
    """`INFERMESH_GENERATOR_*`; sizes in tokens unless named otherwise."""

    service: ClassVar[str] = "generator"

    port: int = Field(50054, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    engine: str = Field(
        "native", pattern="^(native|mock)$", description="mock computes without a model or weights"
    )
    device: str = Field("cpu", pattern="^(cpu|cuda)$", description="cuda takes the first GPU")
    dtype: str = Field(
        "", pattern="^(|float32|bfloat16|float16)$", description="default: the checkpoint's"
    )
    max_sequences: int = Field(
        0, ge=0, le=1024, description="sequences in one engine step; 0: 64, 256 on a GPU"
    )
    max_batched_tokens: int = Field(
        0, ge=0, le=65536, description="token budget of one step; 0: 512, 8192 on a GPU"
    )
    target_step_ms: float = Field(
        0, ge=-1, description="step time while streams decode; 0: none, -1: twice the decodes' own"
    )
    max_waiting: int = Field(16, ge=0, le=4096, description="sequences taken beyond those running")
    max_waiting_tokens: int = Field(0, ge=0, description="prompt tokens that wait; 0: no limit")
    kv_cache_mb: int = Field(0, ge=0, description="KV cache; 0 sizes it from the free memory")
    kv_cache_dtype: str = Field("", pattern="^(|fp8)$", description="default: the weights' own")
    attention: str = Field(
        "auto", pattern="^(auto|torch)$", description="torch never takes the compiled kernel"
    )
    cpu_level: str = Field(
        "",
        pattern="^(|torch|avx2|avx512|avx512_vnni|avx512_bf16|amx|neon|neon_dotprod)$",
        description="instructions that kernels may use; default: all that the processor has",
    )
    speculative_tokens: int = Field(
        7, ge=0, le=15, description="guessed tokens that a sequence may try in a step; 0: none"
    )
    batch_invariant: bool = Field(
        True, description="the same bits for a request whatever runs beside it"
    )
    quantization: str = Field("", pattern="^(|int8|int4|fp8)$", description="default: none")
    exact: bool = Field(
        False, description="weights of 4 and 8 bits become floats: slower, rows are not rounded"
    )
    graphs: bool = Field(True, description="a GPU's decodes are recorded once and replayed")
    threads: int = Field(0, ge=0, le=256, description="torch threads; 0 takes all cores")
    wedged_s: float = Field(3.0, gt=0, description="a step that takes longer makes unready")
    mock_first_token_ms: float = Field(
        0, ge=0, description="mock: time of a whole prompt's prefill; cached tokens take none"
    )
    mock_token_ms: float = Field(0, ge=0, description="mock: time of a decode step")
    mock_output_tokens: int = Field(
        0, ge=0, description="mock: tokens until a sequence stops; 0: it runs to max_tokens"
    )

    def engine_config(self) -> EngineConfig:
        """Return the engine's options; 0 and an empty text stand for its own choice."""
        max_num_seqs, max_batched_tokens = _SIZES[self.device]
        return EngineConfig(
            model=Path(self.model),
            device=self.device,
            graphs=self.graphs,
            dtype=self.dtype or None,
            max_num_seqs=self.max_sequences or max_num_seqs,
            max_batched_tokens=self.max_batched_tokens or max_batched_tokens,
            kv_cache_dtype=self.kv_cache_dtype or None,
            kv_cache_bytes=self.kv_cache_mb * 2**20 or None,
            target_step_s=None if self.target_step_ms < 0 else self.target_step_ms / 1000,
            attention=self.attention,
            cpu_level=self.cpu_level or None,
            speculative_tokens=self.speculative_tokens,
            batch_invariant=self.batch_invariant,
            quantization=self.quantization or None,
            exact=self.exact,
            num_threads=self.threads or None,
            max_queued_tokens=self.max_waiting_tokens or None,
        )

    def mock_config(self) -> MockConfig | None:
        """Return the mock model's options; None where a checkpoint's model computes."""
        if self.engine != "mock":
            return None
        return MockConfig(
            first_token_s=self.mock_first_token_ms / 1000,
            token_s=self.mock_token_ms / 1000,
            output_tokens=self.mock_output_tokens,
        )


def variable(option: str) -> str:
    """Return the variable behind an option of the engine, for messages to operators."""
    field = _FIELDS.get(option, option)
    named = {own: name for name, own in variables(GeneratorSettings).items()}
    return named.get(field, option)
