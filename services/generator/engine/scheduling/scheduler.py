"""Continuous batching with chunked prefill: which requests compute how many tokens in each step.

Policy only: no tensors, no text, no clock. Running requests come before waiting ones; a decode
never waits for a prefill chunk, because each running decode keeps one token of the budget. Drafts
take what prompts leave, and blocks that no request needs now.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.config import DEFAULT_OUTPUT_QUANTILE
from services.generator.engine.kv.allocator import BlockAllocator
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.outputs import StepOutput, conclusion
from services.generator.engine.request import FinishReason, Request, RequestStatus
from services.generator.engine.scheduling.admission import Admission, OutputLengths
from services.generator.engine.scheduling.commit import StepCommitter
from services.generator.engine.scheduling.lookahead import Lookahead, can_plan_ahead
from services.generator.engine.scheduling.preemption import Preemption
from services.generator.engine.scheduling.queue_limits import QueueLimits
from services.generator.engine.scheduling.queues import RequestQueues, RunningQueue, WaitingQueue
from services.generator.engine.scheduling.step_budget import StepBudget, StepLimits
from services.generator.engine.sequences.fork import cancel_forks
from services.generator.engine.speculation.speculation import Speculation


class Scheduler:
    """Owns the live requests and their blocks; every state change is one synchronous call."""

    def __init__(
        self,
        pool: BlockPool,
        max_num_seqs: int,
        max_batched_tokens: int,
        *,
        output_quantile: float = DEFAULT_OUTPUT_QUANTILE,
        max_queued_requests: int | None = None,
        max_queued_tokens: int | None = None,
        target_step_s: float | None = 0.0,
        prefix_caching: bool = True,
        speculative_tokens: int = 0,
    ) -> None:
        assert 1 <= max_num_seqs <= max_batched_tokens, "each decode needs a token of the budget"
        self.pool = pool
        self.queue_limits = QueueLimits(max_queued_requests, max_queued_tokens)
        self.num_admissions = 0
        self.outcomes: Counter[FinishReason] = Counter()
        self.prefixes = PrefixSharing(pool, prefix_caching)
        self.blocks = BlockAllocator(pool, self.prefixes)
        self._queues = RequestQueues(max_num_seqs)
        self.preemption = Preemption(self.blocks, self._queues)
        self.speculation = Speculation(speculative_tokens)
        self._lengths = OutputLengths(output_quantile)
        self.admission = Admission(pool, self._lengths, self.prefixes, self._queues)
        self._step_limits = StepLimits(max_num_seqs, max_batched_tokens, target_step_s)
        self.committer = StepCommitter(
            self.finish,
            pool=pool,
            blocks=self.blocks,
            prefixes=self.prefixes,
            queues=self._queues,
            preemption=self.preemption,
            speculation=self.speculation,
            token_limit=self._step_limits.tokens,
        )
        self._lookahead = Lookahead()

    @property
    def waiting(self) -> WaitingQueue:
        """Requests that wait for their first step, or for another turn after a preemption."""
        return self._queues.waiting

    @property
    def running(self) -> RunningQueue:
        """Requests that hold blocks, in scheduling order."""
        return self._queues.running

    def add(self, *requests: Request) -> None:
        """Admit a request, or all sequences of one; from here on each has exactly one outcome.

        Raises QueueFullError.
        """
        self.queue_limits.admit(requests, self.waiting)
        self.num_admissions += len(requests)
        for request in requests:
            self._queues.add(request)

    def finish(
        self, request: Request, reason: FinishReason, now_s: float, token_ids: tuple[int, ...] = ()
    ) -> StepOutput:
        """End a live request: free its blocks at once and return its last output."""
        assert not request.is_finished, f"{request!r} ends twice. This is a bug."
        if reason is FinishReason.ERROR:
            for sequence in request.sequences:
                self.pool.taint(sequence.block_ids)
        self.blocks.release(request)
        self._queues.remove(request)
        cancel_forks(request)
        self.speculation.drop(request)
        request.finish_reason = reason
        self.outcomes[reason] += 1
        if reason in (FinishReason.STOP, FinishReason.LENGTH) and request.beams is None:
            self._lengths.observe(request.num_output_tokens)
        return conclusion(request, token_ids, now_s)

    def reset(self, live: Iterable[Request], now_s: float) -> list[StepOutput]:
        """End all live requests with ERROR after a fault that left the accounts in any state.

        One that had ended in the faulty step ends with ERROR too: its last output was lost.
        """
        self.pool.reset()
        self._queues.clear()
        self.prefixes.reset()
        self.blocks.reset()
        self.queue_limits.reset()
        self._lookahead.clear()
        outputs = []
        for request in live:
            if request.finish_reason is not None:
                self.outcomes[request.finish_reason] -= 1
            self.speculation.drop(request)
            request.block_ids = []
            request.status = RequestStatus.FINISHED
            request.finish_reason = FinishReason.ERROR
            self.outcomes[FinishReason.ERROR] += 1
            outputs.append(conclusion(request, (), now_s))
        return outputs

    def expire(self, now_s: float) -> list[StepOutput]:
        """End every live request whose deadline has passed."""
        passed = self._queues.expire(now_s)
        return [self.finish(request, FinishReason.DEADLINE, now_s) for request in passed]

    def schedule(self, now_s: float) -> list[Chunk]:
        """Return this step's chunks, at most `max_batched_tokens` tokens together."""
        num_preemptions = self.preemption.num_preemptions
        self.admission.num_waiting_for_prefix = 0
        budget = self._prompt_budget()
        chunks = self._lookahead.take(budget)
        if chunks is None:
            chunks = self._continue_running(budget)
        admitted: list[Chunk] = []
        if self.preemption.num_preemptions == num_preemptions:
            admitted = self.admission.admit(budget, now_s)
            chunks = self.speculation.with_drafts(
                chunks, budget.num_tokens, budget.left_s, self.blocks
            )
        num_started_tokens = sum(chunk.request.num_prompt_tokens for chunk in admitted)
        self.queue_limits.observe(num_started_tokens, self.waiting, now_s)
        # a group of beams is preempted as a whole, those included that had a chunk already
        chunks = [chunk for chunk in chunks if chunk.request.status is RequestStatus.RUNNING]
        return chunks + admitted

    def plan_ahead(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Return what the running requests compute after `chunks`, while these are computed.

        `schedule` begins with this plan. Empty where more depends on the results, see `lookahead`.
        """
        num_step_tokens = self._step_limits.tokens.num_tokens
        if not can_plan_ahead(chunks, self.running, self.pool, num_step_tokens):
            return ()
        self._lookahead.assume_computed(chunks)
        planned = self._continue_running(self._prompt_budget())
        self._lookahead.keep(planned)
        # it may be computed before anything could be copied; forks have parted before
        assert not self.blocks.has_copies, "a block is shared that is written next. This is a bug."
        return planned

    def take_copies(self) -> list[tuple[int, int]]:
        """Return the blocks (from, to) to copy before the chunks just scheduled are computed."""
        return self.blocks.take_copies()

    def observe_step(self, chunks: Sequence[Chunk], step_s: float) -> None:
        """Learn how long a step of these chunks took."""
        self._step_limits.observe_step(chunks, step_s)
        if all(chunk.num_known == 1 for chunk in chunks):
            self.speculation.observe_step(sum(chunk.num_tokens for chunk in chunks), step_s)

    def commit(
        self, chunks: Sequence[Chunk], results: Sequence[ChunkResult], now_s: float
    ) -> list[StepOutput]:
        """Apply the results of the chunks, in order; return what the outside should hear."""
        self._lookahead.settle(chunks)
        return self.committer.commit(chunks, results, now_s)

    def check(self) -> None:
        """Assert the accounts: blocks, holders, and one outcome per admission."""
        live = list(self._queues)
        self.pool.check(request.block_ids for request in live)
        num_ended = sum(self.outcomes.values())
        num_live = sum(request is request.owner for request in live)
        assert self.num_admissions == num_ended + num_live, "outcomes differ from admissions"
        assert not any(r.block_ids for r in self.waiting), "a waiting request has blocks"
        assert self._queues.num_free_slots >= 0, "too many requests run"
        self.prefixes.check(list(self.running))
        self.speculation.check(live)
        ends = self._lookahead.ends()
        for request in self.running:
            num_blocks = self.pool.num_blocks_for(ends.get(request, request.num_computed_tokens))
            assert len(request.block_ids) == num_blocks, f"{request!r} holds other blocks"
            assert request.num_computed_tokens < request.num_tokens, f"{request!r} has no work"

    def _prompt_budget(self) -> StepBudget:
        return self._step_limits.budget(
            self.running, len(self.waiting), speculates=self.speculation.is_on
        )

    def _continue_running(self, budget: StepBudget) -> list[Chunk]:
        chunks: list[Chunk] = []
        running, blocks = self.running, self.blocks
        index = 0
        # preemption takes requests from the end of the queue
        while index < len(running):
            request = running[index]
            start, num_tokens = request.num_computed_tokens, request.num_uncomputed_tokens
            is_decode = num_tokens == 1
            if request.has_all_tokens:
                num_tokens = 0
            elif not is_decode:
                num_tokens = budget.offer(start, num_tokens)
            if num_tokens > 0:
                end = start + num_tokens
                if not blocks.ensure(request, end) and not self.preemption.make_room(request, end):
                    break
                chunks.append(Chunk(request, start, num_tokens))
                if not is_decode:
                    budget.take(start, num_tokens)
            index += 1
        return chunks

    def __repr__(self) -> str:
        return f"Scheduler(running {len(self.running)}, waiting {len(self.waiting)}, {self.pool!r})"
