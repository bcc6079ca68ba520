"""One request's state from admission to its only outcome. Counts tokens; never sees a tensor."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.fair_queue import Ticket
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from services.generator.engine.sequences.beam_group import BeamGroup


class FinishReason(enum.Enum):
    """The terminal outcomes; every admitted request gets exactly one.

    REJECTED is for those that were never admitted, because the queue was full.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    DEADLINE = "deadline"
    REJECTED = "rejected"


class RequestStatus(enum.Enum):
    """WAITING <-> RUNNING (a preemption leads back), either -> FINISHED."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Request:
    """Chases `num_tokens` (what is known) with `num_computed_tokens` (what the KV cache holds).

    There is no prefill or decode state: a long prompt, a resumed request and a decode differ only
    in how far the second counter is behind. `num_scored_tokens` counts the leading positions whose
    logits have told the next prompt token's probability, where that is wanted. Times are
    `time.monotonic` seconds.
    """

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    root_hash: bytes
    arrival_index: int
    arrival_s: float
    priority: int = 0
    deadline_s: float | None = None
    tenant: str = ""
    branch: int = 0
    num_prompt_tokens: int = field(init=False)
    num_computed_tokens: int = 0
    num_cached_tokens: int | None = None
    num_scored_tokens: int = 0
    num_preemptions: int = 0
    num_oom_retries: int = 0
    waited_for_prefix: bool = False
    # drawn by the step that is being computed, while the next one is planned
    num_lookahead_tokens: int = 0
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    # those that will go on from its computed prompt, and the one that this request waits for
    forks: list[Request] = field(default_factory=list)
    source: Request | None = None
    beams: BeamGroup | None = None
    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    # told by the next output
    new_logprobs: list[TokenLogprobs] = field(default_factory=list)
    new_prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key of those that run: a lower priority number first, then the earlier arrival."""
        return self.priority, self.arrival_index, self.branch

    @property
    def owner(self) -> Request:
        """The request whose outcome this sequence shares; a beam's is its group's leader."""
        return self if self.beams is None else self.beams.leader

    @property
    def sequences(self) -> list[Request]:
        """Those that hold blocks for it: itself, or the beams of its search."""
        return [self] if self.beams is None else self.beams.members

    @property
    def num_seats(self) -> int:
        """Running sequences that it is, or will be once its prompt is computed."""
        return 1 + len(self.forks)

    @property
    def ticket(self) -> Ticket:
        """For the order of those that wait; a preempted request has had its turn already."""
        cost = 0 if self.num_preemptions else self.num_prompt_tokens + self.params.max_tokens
        return Ticket(self.priority, self.tenant, self.arrival_index, cost)

    @property
    def num_tokens(self) -> int:
        """Known tokens: the prompt, what was generated, and one that a planned step counts on."""
        return len(self.token_ids) + self.num_lookahead_tokens

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens, a final stop token included."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Known tokens whose keys and values are not in the cache; 1 for a plain decode."""
        return self.num_tokens - self.num_computed_tokens

    @property
    def has_all_tokens(self) -> bool:
        """True when it may have no more output; only a lookahead token makes a live one so."""
        return self.num_tokens - self.num_prompt_tokens >= self.params.max_tokens

    @property
    def num_unscored_tokens(self) -> int:
        """Positions whose logits must still tell the probability of the next prompt token."""
        if self.params.prompt_logprobs is None:
            return 0
        return self.num_prompt_tokens - 1 - self.num_scored_tokens

    @property
    def num_skippable_tokens(self) -> int:
        """Leading tokens that need not be computed if the cache has them.

        Not the last known one and none that is to be scored, because their logits are needed.
        """
        return self.num_scored_tokens if self.num_unscored_tokens > 0 else self.num_tokens - 1

    @property
    def is_finished(self) -> bool:
        """True once the outcome is set."""
        return self.finish_reason is not None

    def __repr__(self) -> str:
        state = self.finish_reason.value if self.finish_reason else self.status.value
        return (
            f"Request({self.request_id!r}, {state}, computed {self.num_computed_tokens}"
            f"/{self.num_tokens}, prompt {self.num_prompt_tokens}, blocks {len(self.block_ids)})"
        )
