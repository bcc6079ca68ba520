"""Steps that only decode: how fast, against the floor, and what the device does in them."""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.gpu.engine.device_profile import device_profile
from bench.gpu.engine.floor import step_bytes
from bench.gpu.timing import synchronize
from services.generator.engine import Engine, SamplingParams, StepOutput

PROMPT_TOKENS = 512
WARM_STEPS, STEPS, PROFILED_STEPS = 16, 64, 8


@dataclass(frozen=True)
class DecodePlan:
    """How many sequences, of what length, for how many steps of each kind."""

    batch: int
    prompt_tokens: int = PROMPT_TOKENS
    warm_steps: int = WARM_STEPS
    steps: int = STEPS
    profiled_steps: int = PROFILED_STEPS

    def max_tokens(self, max_batched_tokens: int) -> int:
        """Return the output tokens of a sequence, which must last while others' prompts run."""
        prompts = 2 * self.batch * self.prompt_tokens // max_batched_tokens + 8
        return prompts + self.warm_steps + self.steps + self.profiled_steps

    def num_tokens(self, max_batched_tokens: int) -> int:
        """Return the tokens of all sequences at their longest."""
        return self.batch * (self.prompt_tokens + self.max_tokens(max_batched_tokens))


def measure_decode(
    engine: Engine, config: Mapping[str, Any], plan: DecodePlan, copy_bytes_per_s: float
) -> dict[str, Any]:
    """Return the row of one batch; raises RuntimeError where something else than decodes ran."""
    rng = random.Random(plan.batch)
    max_tokens = plan.max_tokens(engine.config.max_batched_tokens)
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    ids = [f"decode {plan.batch} {index}" for index in range(plan.batch)]
    for request_id in ids:
        prompt = [rng.randrange(3, config["vocab_size"]) for _ in range(plan.prompt_tokens)]
        engine.add(request_id, prompt, params)
    try:
        return _measured(engine, config, plan, copy_bytes_per_s)
    finally:
        for request_id in ids:
            engine.abort(request_id)


def _measured(
    engine: Engine, config: Mapping[str, Any], plan: DecodePlan, copy_bytes_per_s: float
) -> dict[str, Any]:
    _start(engine, plan)
    for _ in range(plan.warm_steps):
        _checked(engine.step())
    record = _Record()
    synchronize()
    started_s = time.perf_counter()
    for _ in range(plan.steps):
        record.step(engine)
    synchronize()
    wall_s = time.perf_counter() - started_s
    if record.num_tokens != plan.batch * plan.steps:
        raise RuntimeError(
            f"{plan.steps} steps of {plan.batch} sequences gave {record.num_tokens} tokens"
        )
    step_s = wall_s / plan.steps
    num_bytes = step_bytes(config, record.num_cached_tokens / plan.steps)
    floor_s = num_bytes / copy_bytes_per_s
    return {
        "batch": plan.batch,
        "tokens_per_s": record.num_tokens / wall_s,
        "floor_tokens_per_s": plan.batch / floor_s,
        "share": floor_s / step_s,
        "step_ms": step_s * 1e3,
        "median_step_ms": statistics.median(record.times_s) * 1e3,
        "max_step_ms": max(record.times_s) * 1e3,
        "floor_ms": floor_s * 1e3,
        "mean_context": record.num_cached_tokens / record.num_tokens,
        "device": device_profile(lambda: _checked(engine.step()), plan.profiled_steps, step_s),
    }


@dataclass
class _Record:
    num_tokens: int = 0
    num_cached_tokens: int = 0
    times_s: list[float] = field(default_factory=list)

    def step(self, engine: Engine) -> None:
        """Run and note one step; a token attends to all that came before it."""
        started_s = time.perf_counter()
        outputs = _checked(engine.step())
        self.times_s.append(time.perf_counter() - started_s)
        for output in outputs:
            self.num_tokens += len(output.token_ids)
            self.num_cached_tokens += output.num_prompt_tokens + output.num_output_tokens - 1


def _start(engine: Engine, plan: DecodePlan) -> None:
    """Step until every sequence has a token."""
    begun: set[str] = set()
    for _ in range(plan.max_tokens(engine.config.max_batched_tokens)):
        begun |= {output.request_id for output in _checked(engine.step()) if output.token_ids}
        if len(begun) == plan.batch:
            return
    raise RuntimeError(f"only {len(begun)} of {plan.batch} sequences decode together")


def _checked(outputs: Sequence[StepOutput]) -> Sequence[StepOutput]:
    for output in outputs:
        if output.finish_reason is not None:
            raise RuntimeError(f"{output.request_id} ended early: {output.finish_reason.value}")
    return outputs
