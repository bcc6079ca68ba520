"""Decides each step which requests compute how many tokens, and applies what came of it.

Policy only: no tensors, no text, no clock. Running requests come before waiting ones; a decode
never waits for a prefill chunk, because each running decode keeps one token of the budget. Drafts
take what prompts leave, and blocks that nobody else needs now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.allocator import BlockClaims
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.outputs import StepOutput, beams_told, conclusion, progress
from services.generator.engine.request import FinishReason, Request, RequestStatus
from services.generator.engine.scheduling.admission import Admission
from services.generator.engine.scheduling.deadlines import Deadlines
from services.generator.engine.scheduling.output_lengths import (
    DEFAULT_OUTPUT_QUANTILE,
    OutputLengths,
)
from services.generator.engine.scheduling.queue_limits import QueueLimits
from services.generator.engine.scheduling.request_queue import RequestQueue
from services.generator.engine.scheduling.step_budget import StepBudget
from services.generator.engine.scheduling.step_time import StepTimeModel
from services.generator.engine.scheduling.token_limit import TokenLimit
from services.generator.engine.scheduling.waiting_queue import WaitingQueue
from services.generator.engine.sequences import fork
from services.generator.engine.sequences.beam_group import BeamGroup
from services.generator.engine.speculation.speculation import Speculation
from services.generator.engine.token_logprobs import Candidate

# so often a request gives way because a step found no memory for it; the next time it ends
MAX_OOM_RETRIES = 3


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
        self.waiting = WaitingQueue()
        self.running = RequestQueue()
        self.limits = QueueLimits(max_queued_requests, max_queued_tokens)
        self.num_admissions = 0
        self.outcomes: Counter[FinishReason] = Counter()
        self.num_generated_tokens = 0
        self.num_waiting_for_prefix = 0
        self.prefixes = PrefixSharing(pool, prefix_caching)
        self.claims = BlockClaims(pool, self.prefixes, self.waiting, self.running)
        self._lengths = OutputLengths(output_quantile)
        self._admission = Admission(pool, self._lengths)
        self._max_num_seqs = max_num_seqs
        self.limit = TokenLimit(max_num_seqs, max_batched_tokens)
        self._target_step_s = target_step_s
        self.step_times = StepTimeModel()
        self.speculation = Speculation(speculative_tokens)
        self._planned: list[Chunk] | None = None
        self._deadlines = Deadlines()

    def add(self, *requests: Request) -> None:
        """Admit a request, or all sequences of one; from here on each has exactly one outcome.

        Raises QueueFullError.
        """
        self.limits.admit(requests, self.waiting)
        self.num_admissions += len(requests)
        for request in requests:
            self.waiting.add(request)
            self._deadlines.add(request)

    def finish(
        self, request: Request, reason: FinishReason, now_s: float, token_ids: tuple[int, ...] = ()
    ) -> StepOutput:
        """End a live request: free its blocks at once and return its last output."""
        assert not request.is_finished, f"{request!r} ends twice. This is a bug."
        if reason is FinishReason.ERROR:
            for sequence in request.sequences:
                self.pool.taint(sequence.block_ids)
        self.claims.release(request)
        fork.part(request)
        self.speculation.drop(request)
        (self.running if request.status is RequestStatus.RUNNING else self.waiting).remove(request)
        request.status = RequestStatus.FINISHED
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
        self.waiting = WaitingQueue()
        self.running = RequestQueue()
        self.prefixes.reset()
        self.claims.reset(self.waiting, self.running)
        self._deadlines.clear()
        self.limits.reset()
        self._planned = None
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
        passed = self._deadlines.take_passed(now_s)
        return [self.finish(request, FinishReason.DEADLINE, now_s) for request in passed]

    def schedule(self, now_s: float) -> list[Chunk]:
        """Return this step's chunks, at most `max_batched_tokens` tokens together."""
        num_preemptions = self.claims.num_preemptions
        self.num_waiting_for_prefix = 0
        budget = self._prompt_budget()
        chunks = self._take_planned(budget)
        if chunks is None:
            chunks = self._continue_running(budget)
        admitted: list[Chunk] = []
        if self.claims.num_preemptions == num_preemptions:
            admitted = self._admit_waiting(budget, now_s)
            chunks = self._with_drafts(chunks, budget)
        num_started_tokens = sum(chunk.request.num_prompt_tokens for chunk in admitted)
        self.limits.observe(num_started_tokens, self.waiting, now_s)
        # a group of beams falls as a whole, those included that had a chunk already
        chunks = [chunk for chunk in chunks if chunk.request.status is RequestStatus.RUNNING]
        return chunks + admitted

    def plan_ahead(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Plan what those that run compute after `chunks`, while these are computed; return it.

        As if each succeeded and drew a token that ends nothing: `schedule` drops who ended, and
        admits and guesses then. Nothing is planned where more than that follows from the results,
        or where somebody might have to give way.
        """
        if not self._can_plan_ahead(chunks):
            return ()
        for chunk in chunks:
            chunk.request.num_computed_tokens = chunk.end
            chunk.request.num_lookahead_tokens = int(chunk.samples)
        self._planned = self._continue_running(self._prompt_budget())
        # it may be computed before anything could be copied; forks have parted before
        assert not self.claims.has_copies, "a block is shared that is written next. This is a bug."
        return self._planned

    def take_copies(self) -> list[tuple[int, int]]:
        """Return the blocks (from, to) to copy before the chunks just scheduled are computed."""
        return self.claims.take_copies()

    def observe_step(self, chunks: Sequence[Chunk], step_s: float) -> None:
        """Learn how long a step of these chunks took."""
        self.limit.observe_step()
        self.step_times.observe(chunks, step_s)
        if all(chunk.num_known == 1 for chunk in chunks):
            self.speculation.observe_step(sum(chunk.num_tokens for chunk in chunks), step_s)

    def commit(
        self, chunks: Sequence[Chunk], results: Sequence[ChunkResult], now_s: float
    ) -> list[StepOutput]:
        """Apply the results of the chunks, in order; return what the outside should hear."""
        outputs = []
        for chunk in chunks:
            chunk.request.num_lookahead_tokens = 0
        for chunk, result in zip(chunks, results, strict=True):
            request = chunk.request
            # a group of beams ends, or gives way, as a whole
            if request.owner.status is not RequestStatus.RUNNING:
                continue
            if result.out_of_memory:
                outputs += self._retry_smaller(request.owner, now_s)
                continue
            if result.failed:
                outputs.append(self.finish(request.owner, FinishReason.ERROR, now_s))
                continue
            token_ids = self._advance(chunk, result.token_ids)
            self.prefixes.publish(request, chunk.start // self.pool.block_size)
            if request.beams is not None and chunk.samples:
                outputs += self._extend_beams(request, request.beams, result.candidates, now_s)
            if token_ids:
                outputs += self._fork(request, result.forks, now_s)
                outputs.append(self._deliver(request, token_ids, now_s))
        return outputs

    def kv_waste(self) -> float:
        """Return the share of the token slots in used blocks that hold nothing."""
        size = self.pool.block_size
        # forks may share the last block
        num_empty = {
            r.block_ids[-1]: len(r.block_ids) * size - r.num_computed_tokens for r in self.running
        }
        return sum(num_empty.values()) / max(1, self.pool.num_used * size)

    def check(self) -> None:
        """Assert the accounts: blocks, holders, and one outcome per admission."""
        live = [*self.waiting, *self.running]
        self.pool.check(request.block_ids for request in live)
        num_ended = sum(self.outcomes.values())
        num_live = sum(request is request.owner for request in live)
        assert self.num_admissions == num_ended + num_live, "outcomes differ from admissions"
        assert all(not request.block_ids for request in self.waiting), (
            "a waiting request has blocks"
        )
        assert self._num_seats() <= self._max_num_seqs, "too many requests run"
        self.prefixes.check(list(self.running))
        self.speculation.check(live)
        ends = {chunk.request: chunk.end for chunk in self._planned or ()}
        for request in self.running:
            num_blocks = self.pool.num_blocks_for(ends.get(request, request.num_computed_tokens))
            assert len(request.block_ids) == num_blocks, f"{request!r} holds other blocks"
            assert request.num_computed_tokens < request.num_tokens, f"{request!r} has no work"

    def _prompt_budget(self) -> StepBudget:
        """Keep one token for each decode; what is left is for prompts, within the time's target."""
        decodes = [r for r in self.running if r.num_uncomputed_tokens == 1 and not r.has_all_tokens]
        budget = StepBudget(self.limit.num_tokens - len(decodes))
        num_prompts = len(self.running) + len(self.waiting) - len(decodes)
        if self._target_step_s != 0.0 and decodes and (num_prompts or self.speculation.is_on):
            time = self.step_times.fit()
            decode_s = time.predict(len(decodes), sum(r.num_tokens for r in decodes))
            if self._target_step_s is None:
                left_s = decode_s * max(1.0, num_prompts / len(decodes))
            else:
                left_s = self._target_step_s - decode_s
            budget.limit_time(left_s, time, self.step_times.max_prompt_tokens)
        return budget

    def _can_plan_ahead(self, chunks: Sequence[Chunk]) -> bool:
        """Whether each chunk leaves its request with one token more, or none, and nothing else."""
        if any(chunk.drafts for chunk in chunks):
            return False
        if any(r.forks or r.beams or r.num_unscored_tokens for r in self.running):
            return False
        # each may begin a block, and prompts fill what the budget holds
        num_blocks = 2 * len(self.running) + self.limit.num_tokens // self.pool.block_size
        return self.pool.num_available >= num_blocks

    def _take_planned(self, budget: StepBudget) -> list[Chunk] | None:
        """Return the planned chunks of those that still run; None if nothing was planned."""
        planned, self._planned = self._planned, None
        if planned is None:
            return None
        chunks = [c for c in planned if c.request.status is RequestStatus.RUNNING]
        for chunk in chunks:
            if chunk.num_tokens > 1:
                budget.take(chunk.start, chunk.num_tokens)
        return chunks

    def _continue_running(self, budget: StepBudget) -> list[Chunk]:
        chunks: list[Chunk] = []
        index = 0
        while index < len(self.running):
            request = self.running[index]
            start, num_tokens = request.num_computed_tokens, request.num_uncomputed_tokens
            is_decode = num_tokens == 1
            if request.has_all_tokens:
                num_tokens = 0
            elif not is_decode:
                num_tokens = budget.offer(start, num_tokens)
            if num_tokens > 0:
                if not self.claims.cover(request, start + num_tokens):
                    break
                chunks.append(Chunk(request, start, num_tokens))
                if not is_decode:
                    budget.take(start, num_tokens)
            index += 1
        return chunks

    def _with_drafts(self, chunks: list[Chunk], budget: StepBudget) -> list[Chunk]:
        """Return the chunks, decodes extended by drafts from what prompts left of the budget."""
        decodes = [c.request for c in chunks if _may_speculate(c)]
        drafts = self.speculation.propose(decodes, budget.num_tokens, budget.left_s)
        if not drafts:
            return chunks
        return [self._extended(chunk, drafts.get(chunk.request, ())) for chunk in chunks]

    def _extended(self, chunk: Chunk, drafts: tuple[int, ...]) -> Chunk:
        drafts = drafts[: self.claims.cover_guesses(chunk.request, chunk.end, len(drafts))]
        return Chunk(chunk.request, chunk.start, chunk.num_tokens + len(drafts), drafts)

    def _admit_waiting(self, budget: StepBudget, now_s: float) -> list[Chunk]:
        chunks: list[Chunk] = []
        num_free_seats = self._max_num_seqs - self._num_seats()
        for request in self.waiting:
            if request.source is not None:
                continue
            if budget.num_tokens == 0 or request.num_seats > num_free_seats:
                break
            hits = self.prefixes.find_hits(request)
            if hits is None:
                self.num_waiting_for_prefix += 1
                continue
            start = len(hits) * self.pool.block_size
            num_tokens = budget.offer(start, request.num_tokens - start)
            if num_tokens == 0 or not self._reserve(request, hits, start + num_tokens):
                break
            self._start(request, now_s)
            num_free_seats -= request.num_seats
            chunks.append(Chunk(request, start, num_tokens))
            budget.take(start, num_tokens)
        return chunks

    def _reserve(self, request: Request, hits: list[int], num_tokens: int) -> bool:
        """Take the prefix hits and blocks for the first `num_tokens` tokens, or change nothing."""
        if not self._admission.fits(request, hits, self.running):
            return False
        self.pool.share(hits, request.priority)
        num_missing = self.pool.num_blocks_for(num_tokens) - len(hits)
        if num_missing > self.pool.num_available:
            self.pool.release(hits)
            return False
        request.block_ids = hits + self.pool.allocate(num_missing, request.priority)
        request.num_computed_tokens = len(hits) * self.pool.block_size
        return True

    def _num_seats(self) -> int:
        return sum(request.num_seats for request in self.running)

    def _retry_smaller(self, request: Request, now_s: float) -> list[StepOutput]:
        """Let a request compute again in smaller steps; end it if that was of no use before."""
        self.limit.lower()
        request.num_oom_retries += 1
        if request.num_oom_retries > MAX_OOM_RETRIES:
            return [self.finish(request, FinishReason.ERROR, now_s)]
        self.claims.give_way(request, f"no memory for its chunk, now {self.limit!r}")
        return []

    def _seat(self, request: Request) -> None:
        self.waiting.take(request)
        self.running.add(request)
        request.status = RequestStatus.RUNNING

    def _start(self, request: Request, now_s: float) -> None:
        self._seat(request)
        if request.first_scheduled_s is None:
            request.first_scheduled_s = now_s
            request.num_cached_tokens = request.num_computed_tokens
        self.prefixes.started(request)

    def _fork(
        self, source: Request, results: Sequence[ChunkResult], now_s: float
    ) -> list[StepOutput]:
        """Let those go on from the source that waited for its prompt, each with its own token."""
        outputs = []
        followers, source.forks = source.forks, []
        for follower, result in zip(followers, results, strict=True):
            fork.fork(source, follower, self.pool)
            self._seat(follower)
            if result.failed:
                outputs.append(self.finish(follower, FinishReason.ERROR, now_s))
            else:
                token_ids = self._append(follower, result.token_ids)
                outputs.append(self._deliver(follower, token_ids, now_s))
        return outputs

    def _extend_beams(
        self, beam: Request, group: BeamGroup, candidates: Sequence[Candidate], now_s: float
    ) -> list[StepOutput]:
        """Note how one beam could go on; with the last one of the step all of them go on or end."""
        if beam.first_token_s is None:
            beam.first_token_s = now_s
        self.num_generated_tokens += 1
        if not group.tell(beam, candidates) or group.advance(self.pool, self.running):
            return []
        reason, found = group.end()
        return [beams_told(self.finish(group.leader, reason, now_s), found)]

    def _advance(self, chunk: Chunk, drawn: tuple[int, ...]) -> tuple[int, ...]:
        """Count the chunk as computed and append what was drawn; return the appended tokens.

        The drafts among them are computed too. Those that were not drawn leave no trace.
        """
        request = chunk.request
        token_ids = self._append(request, drawn)
        request.num_computed_tokens = chunk.start + chunk.num_known + max(0, len(token_ids) - 1)
        if chunk.drafts:
            self.speculation.observe(request, len(chunk.drafts), len(drawn) - 1)
            num_blocks = self.pool.num_blocks_for(request.num_computed_tokens)
            self.pool.release(request.block_ids[num_blocks:])
            del request.block_ids[num_blocks:]
        return token_ids

    def _append(self, request: Request, drawn: tuple[int, ...]) -> tuple[int, ...]:
        token_ids = _up_to_stop(drawn, request.stop_token_ids)
        request.token_ids += token_ids
        self.num_generated_tokens += len(token_ids)
        return token_ids

    def _deliver(self, request: Request, token_ids: tuple[int, ...], now_s: float) -> StepOutput:
        """Tell of the tokens just appended, and end the request if they end it."""
        if request.first_token_s is None:
            request.first_token_s = now_s
        if token_ids[-1] in request.stop_token_ids:
            return self.finish(request, FinishReason.STOP, now_s, token_ids[:-1])
        if request.num_output_tokens >= request.params.max_tokens:
            return self.finish(request, FinishReason.LENGTH, now_s, token_ids)
        return progress(request, token_ids)

    def __repr__(self) -> str:
        return f"Scheduler(running {len(self.running)}, waiting {len(self.waiting)}, {self.pool!r})"


def _may_speculate(chunk: Chunk) -> bool:
    """Whether the chunk is a decode of a sequence that shares its rows with no other."""
    request = chunk.request
    return chunk.num_tokens == 1 and chunk.samples and not request.forks and not request.beams


def _up_to_stop(token_ids: tuple[int, ...], stop_token_ids: frozenset[int]) -> tuple[int, ...]:
    for index, token_id in enumerate(token_ids):
        if token_id in stop_token_ids:
            return token_ids[: index + 1]
    return token_ids
