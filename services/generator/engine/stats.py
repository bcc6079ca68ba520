"""Engine statistics: the gauges and counters at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.generator.engine.request import FinishReason


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges first, then totals since the start. Times are in seconds.

    `num_waiting_for_prefix` of those that wait were passed over for a prefix that is being
    computed. `num_preempted_tokens` were computed and will be computed again. `kv_waste` is the
    share of the token slots in used blocks that hold nothing. `num_drafts` counts the runs of
    guessed tokens that were tried, `num_draft_tokens` their tokens, and
    `num_accepted_tokens_per_pos` for each place in a run how often the guess was right.
    """

    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    num_waiting_for_prefix: int
    drain_tokens_per_s: float
    expected_wait_s: float
    num_blocks_total: int
    num_blocks_free: int
    num_blocks_cached: int
    num_blocks_used: int
    kv_waste: float
    last_step_s: float
    last_step_tokens: int
    num_steps: int
    num_faults: int
    num_admissions: int
    num_refusals: int
    outcomes: Mapping[FinishReason, int]
    num_preemptions: int
    num_preempted_blocks: int
    num_preempted_tokens: int
    num_computed_tokens: int
    num_generated_tokens: int
    num_prefix_hit_tokens: int
    num_prefix_query_tokens: int
    num_prefix_waits: int
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_accepted_tokens_per_pos: tuple[int, ...]
