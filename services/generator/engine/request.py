"""Request state from admission to its only outcome. Counts tokens; never sees a tensor."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mesh.fair_queue import Ticket
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.token_logprobs import TokenLogprobs


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


class SequenceGroup(Protocol):
    """Sequences that are scheduled as one request: admitted, preempted and ended together.

    The `leader` is the admitted request; `members` are those that hold blocks, the leader among
    them.
    """

    leader: "Request"
    members: "list[Request]"

    def restart(self) -> "Sequence[Request]":
        """Begin again from the leader's prompt; return the members that stop for it."""
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Request:
    """Chases `num_tokens` (what is known) with `num_computed_tokens` (what the KV cache holds).

    There is no prefill or decode state: a long prompt, a resumed request and a decode differ only
    in how far the second counter is behind. `num_scored_tokens` counts the leading positions whose
    logits have given the next prompt token's logprob, where that is wanted. Times are
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
    # requests that will go on from its computed prompt, and the one that it waits for
    forks: "list[Request]" = field(default_factory=list)
    source: "Request | None" = None
    beams: SequenceGroup | None = None
    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    # delivered by the next output
    new_logprobs: list[TokenLogprobs] = field(default_factory=list)
    new_prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key of running requests: a lower priority number first, then the earlier arrival."""
        return self.priority, self.arrival_index, self.branch

    @property
    def owner(self) -> "Request":
        """The request whose outcome this sequence shares; a beam's is its group's leader."""
        return self if self.beams is None else self.beams.leader

    @property
    def sequences(self) -> "list[Request]":
        """The sequences that hold blocks for it: itself, or the beams of its search."""
        return [self] if self.beams is None else self.beams.members

    @property
    def num_slots(self) -> int:
        """Running sequences that it is, or will be once its prompt is computed."""
        return 1 + len(self.forks)

    @property
    def ticket(self) -> Ticket:
        """Its place among waiting requests; a preempted request has had its turn already."""
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
        """Positions at which the logprob of the next prompt token is still wanted."""
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
    def end_reason(self) -> FinishReason | None:
        """STOP or LENGTH where its last token ends the output."""
        if self.token_ids[-1] in self.stop_token_ids:
            return FinishReason.STOP
        if self.num_output_tokens >= self.params.max_tokens:
            return FinishReason.LENGTH
        return None

    @property
    def is_finished(self) -> bool:
        """True once the outcome is set."""
        return self.finish_reason is not None

    def append(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Append the drawn tokens up to the first stop token; return those appended."""
        for index, token_id in enumerate(token_ids):
            if token_id in self.stop_token_ids:
                token_ids = token_ids[: index + 1]
                break
        self.token_ids += token_ids
        return token_ids

    def __repr__(self) -> str:
        state = self.finish_reason.value if self.finish_reason else self.status.value
        return (
            f"Request({self.request_id!r}, {state}, computed {self.num_computed_tokens}"
            f"/{self.num_tokens}, prompt {self.num_prompt_tokens}, blocks {len(self.block_ids)})"
        )
