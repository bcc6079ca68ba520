"""The engine's metrics by name: vLLM's, so that its boards work, and our own beside them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from services.generator.engine import EngineStats, FinishReason

SECONDS = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
_STEP_TOKENS = tuple(2**power for power in range(15))
_PREEMPTIONS = (0, 1, 2, 3, 5, 10, 20, 50)
REASONS = tuple(reason for reason in FinishReason if reason is not FinishReason.REJECTED)


class Distribution(NamedTuple):
    """A histogram of vLLM's, by its name without the prefix."""

    name: str
    text: str
    bounds: tuple[float, ...]


class Reading(NamedTuple):
    """A value of the engine's stats under its public name."""

    name: str
    text: str
    read: Callable[[EngineStats], float]


class LabelledReading(NamedTuple):
    """Values of the engine's stats that differ in one label."""

    name: str
    text: str
    label: str
    read: Callable[[EngineStats], Mapping[str, float]]


HISTOGRAMS = (
    Distribution("time_to_first_token_seconds", "From arrival to the first token", SECONDS),
    Distribution("inter_token_latency_seconds", "Between two outputs of a request", SECONDS),
    Distribution("request_time_per_output_token_seconds", "Mean after the first token", SECONDS),
    Distribution("e2e_request_latency_seconds", "From arrival to the end", SECONDS),
    Distribution("request_queue_time_seconds", "Waiting for the first step", SECONDS),
    Distribution("request_inference_time_seconds", "From the first step to the end", SECONDS),
    Distribution("request_prefill_time_seconds", "From the first step to a token", SECONDS),
    Distribution("request_decode_time_seconds", "From the first token to the end", SECONDS),
    Distribution("request_prompt_tokens", "Prompt tokens of a request", _TOKENS),
    Distribution("request_generation_tokens", "Generated tokens of a request", _TOKENS),
    Distribution("request_max_num_generation_tokens", "Of the longest choice", _TOKENS),
    Distribution("request_params_max_tokens", "The max_tokens asked for", _TOKENS),
    Distribution("request_num_preemptions", "Preemptions of a request", _PREEMPTIONS),
    Distribution("iteration_tokens_total", "Tokens computed in a step", _STEP_TOKENS),
)

GAUGES = (
    Reading("vllm:num_requests_running", "Requests in the step", lambda s: s.num_running),
    Reading("vllm:num_requests_waiting", "Requests that wait", lambda s: s.num_waiting),
    Reading(
        "vllm:kv_cache_usage_perc",
        "Share of the KV blocks in use; 1 is all",
        lambda s: s.num_blocks_used / s.num_blocks_total,
    ),
)
OWN_GAUGES = (
    Reading("kv_waste_ratio", "Share of used token slots that hold nothing", lambda s: s.kv_waste),
    Reading("waiting_tokens", "Prompt tokens that wait", lambda s: s.num_waiting_tokens),
    Reading("expected_wait_seconds", "Until they are gone", lambda s: s.expected_wait_s),
    Reading("drain_tokens_per_second", "Of the queue", lambda s: s.drain_tokens_per_s),
)
GAUGE_FAMILIES = (
    LabelledReading(
        "vllm:num_requests_waiting_by_reason",
        "For room, or passed over for a prefix that is being computed",
        "reason",
        lambda s: {
            "capacity": s.num_waiting - s.num_waiting_for_prefix,
            "deferred": s.num_waiting_for_prefix,
        },
    ),
)
COUNTERS = (
    Reading(
        "vllm:prefix_cache_queries",
        "Tokens looked up in the prefix cache",
        lambda s: s.num_prefix_query_tokens,
    ),
    Reading(
        "vllm:prefix_cache_hits",
        "Tokens found in the prefix cache",
        lambda s: s.num_prefix_hit_tokens,
    ),
    Reading("vllm:num_preemptions", "Preemptions", lambda s: s.num_preemptions),
    Reading("vllm:spec_decode_num_drafts", "Drafts tried", lambda s: s.num_drafts),
    Reading("vllm:spec_decode_num_draft_tokens", "Of them", lambda s: s.num_draft_tokens),
    Reading("vllm:spec_decode_num_accepted_tokens", "Kept", lambda s: s.num_accepted_tokens),
    Reading("vllm:generation_tokens", "Generated tokens", lambda s: s.num_generated_tokens),
)
OWN_COUNTERS = (
    Reading("steps", "Steps of the engine", lambda s: s.num_steps),
    Reading("faults", "Faults that ended all requests", lambda s: s.num_faults),
    Reading("computed_tokens", "Tokens computed", lambda s: s.num_computed_tokens),
    Reading("preemptions", "Preemptions", lambda s: s.num_preemptions),
    Reading("preempted_blocks", "Blocks that they freed", lambda s: s.num_preempted_blocks),
    Reading("preempted_tokens", "Tokens to compute again", lambda s: s.num_preempted_tokens),
    Reading("prefix_waits", "Requests that waited for a prefix", lambda s: s.num_prefix_waits),
)
COUNTER_FAMILIES: tuple[LabelledReading, ...] = (
    LabelledReading(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "Kept by position",
        "position",
        lambda s: {str(i): n for i, n in enumerate(s.num_accepted_tokens_per_pos)},
    ),
    LabelledReading(
        "vllm:request_success",
        "Requests by how they ended",
        "finished_reason",
        lambda s: {reason.value: s.outcomes.get(reason, 0) for reason in REASONS},
    ),
)
