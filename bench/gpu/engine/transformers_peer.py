"""transformers' continuous batching over the same random weights, in its own defaults."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers as typed_transformers
from transformers.generation.continuous_batching.utils import WorkloadHints

from bench.common.random_weights import RandomWeights
from bench.gpu.engine.workload import Ask, throughput
from bench.gpu.timing import synchronize

# Its public functions are only partly annotated, which strict checking would refuse one by one.
transformers: Any = typed_transformers

PAGE_SIZE = 32
RESULT_LIMIT_S = 300.0
ATTEMPTS: Sequence[Mapping[str, Any]] = (
    {},
    {"auto_switch_to_flash": False},
    {"auto_switch_to_flash": False, "max_memory_percent": 0.5, "max_batch_tokens": 4096},
)
"""Its defaults; without the flash attention that it prefers; and with less memory."""


def load_model(config: Mapping[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Return a model whose parameters are those that our engine gets."""
    transformers.logging.set_verbosity_error()
    fields = {name: value for name, value in config.items() if value is not None}
    kind = str(fields.pop("model_type"))
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(kind, **fields), dtype=dtype
        )
    weights = RandomWeights(config, device, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.tensor(name, *parameter.shape))
    return model.eval()


def compare(
    model: Any, warm_up: list[Ask], requests: list[Ask], num_tokens: int | None = None
) -> dict[str, Any]:
    """Serve one list to warm up and one on the clock; return the figures and what was chosen.

    Attention, CUDA graphs and sizes are its own choice, unless that fails: see ATTEMPTS. With
    `num_tokens` its cache is bounded, which else takes what is free.
    """
    failed: list[str] = []
    for options in ATTEMPTS:
        bounds = {**options, **_bounds(num_tokens, len(requests))}
        try:
            with _manager(model, requests, bounds) as manager:
                _served(manager, warm_up)
                answered, wall_s = _served(manager, requests)
                chosen = _chosen(model, manager)
            figures = throughput(sum(map(len, answered)), wall_s, requests)
            return {**figures, **chosen, "failed_before": failed}
        except Exception as error:
            failed.append(f"{dict(options)}: {type(error).__name__}: {error}")
    raise RuntimeError("; ".join(failed))


def answer(model: Any, requests: list[Ask], num_tokens: int) -> list[list[int]]:
    """Return each request's greedy tokens."""
    with _manager(model, requests, _bounds(num_tokens, len(requests))) as manager:
        return _served(manager, requests)[0]


def _bounds(num_tokens: int | None, num_requests: int) -> dict[str, int]:
    if num_tokens is None:
        return {}
    num_blocks = num_tokens // PAGE_SIZE + num_requests + 1
    return {"page_size": PAGE_SIZE, "num_blocks": num_blocks, "max_batch_tokens": 512}


def _manager(model: Any, requests: list[Ask], options: Mapping[str, Any]) -> Any:
    return model.continuous_batching_context_manager(
        generation_config=transformers.GenerationConfig(
            do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=transformers.ContinuousBatchingConfig(**options),
        block=True,
        timeout=60,
        workload_hints=WorkloadHints(
            max_prompt_length=max(len(request.prompt) for request in requests),
            max_generated_length=max(request.max_tokens for request in requests),
            num_requests=len(requests),
        ),
    )


def _served(manager: Any, requests: list[Ask]) -> tuple[list[list[int]], float]:
    """Return each request's tokens, and the seconds until the last had ended."""
    synchronize()
    started_s = time.perf_counter()
    ids = [
        manager.add_request(list(request.prompt), max_new_tokens=request.max_tokens)
        for request in requests
    ]
    found: dict[str, list[int]] = {}
    while len(found) < len(requests):
        result = manager.get_result(timeout=RESULT_LIMIT_S)
        if result is None:
            alive = "runs" if manager.is_running() else "has ended"
            raise RuntimeError(f"no result for {RESULT_LIMIT_S:.0f} s, its thread {alive}")
        if result.error is not None:
            raise RuntimeError(f"a request failed: {result.error}")
        if result.is_finished():
            found[result.request_id] = list(result.generated_tokens)
    wall_s = time.perf_counter() - started_s
    return [found[each] for each in ids], wall_s


def _chosen(model: Any, manager: Any) -> dict[str, Any]:
    config = manager.continuous_batching_config
    names = ("use_cuda_graph", "use_async_batching", "max_batch_tokens", "num_blocks", "page_size")
    return {
        "transformers": transformers.__version__,
        "attention": str(model.config._attn_implementation),
        **{name: getattr(config, name, None) for name in names},
    }
