"""Step results applied to their requests: new tokens, forks, beams, and what ends or runs again."""

from collections.abc import Sequence
from typing import Protocol

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.allocator import BlockAllocator
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.outputs import StepOutput, progress
from services.generator.engine.request import FinishReason, Request, RequestStatus
from services.generator.engine.scheduling.preemption import Preemption
from services.generator.engine.scheduling.queues import RequestQueues
from services.generator.engine.scheduling.step_budget import TokenLimit
from services.generator.engine.sequences.beam_group import BeamGroup, beam_output
from services.generator.engine.sequences.fork import fork_followers
from services.generator.engine.speculation.speculation import Speculation
from services.generator.engine.token_logprobs import Candidate

# so often a request is preempted because a step found no memory for it; the next time it ends
MAX_OOM_RETRIES = 3


class Finish(Protocol):
    """Ends a live request, as `Scheduler.finish` does."""

    def __call__(
        self, request: Request, reason: FinishReason, now_s: float, token_ids: tuple[int, ...] = ()
    ) -> StepOutput: ...


class StepCommitter:
    """Knows what follows from each kind of result; ending a request is its owner's part."""

    def __init__(
        self,
        finish: Finish,
        *,
        pool: BlockPool,
        blocks: BlockAllocator,
        prefixes: PrefixSharing,
        queues: RequestQueues,
        preemption: Preemption,
        speculation: Speculation,
        token_limit: TokenLimit,
    ) -> None:
        self.num_generated_tokens = 0
        self._finish = finish
        self._pool = pool
        self._blocks = blocks
        self._prefixes = prefixes
        self._queues = queues
        self._preemption = preemption
        self._speculation = speculation
        self._token_limit = token_limit

    def commit(
        self, chunks: Sequence[Chunk], results: Sequence[ChunkResult], now_s: float
    ) -> list[StepOutput]:
        """Apply the results of the chunks, in order; return what the outside should hear."""
        outputs = []
        for chunk, result in zip(chunks, results, strict=True):
            request = chunk.request
            # a group of beams ends, or is preempted, as a whole
            if request.owner.status is not RequestStatus.RUNNING:
                continue
            if result.out_of_memory:
                outputs += self._retry_smaller(request.owner, now_s)
                continue
            if result.failed:
                outputs.append(self._finish(request.owner, FinishReason.ERROR, now_s))
                continue
            token_ids = self._advance(chunk, result.token_ids)
            self._prefixes.publish(request, chunk.start // self._pool.block_size)
            if isinstance(request.beams, BeamGroup) and chunk.samples:
                outputs += self._extend_beams(request, request.beams, result.candidates, now_s)
            if token_ids:
                if request.forks:
                    outputs += self._start_forks(request, result.forks, now_s)
                outputs.append(self._deliver(request, token_ids, now_s))
        return outputs

    def _start_forks(
        self, source: Request, results: Sequence[ChunkResult], now_s: float
    ) -> list[StepOutput]:
        """Let those run that waited for the source's prompt, each with a first token of its own."""
        outputs = []
        for follower, result in zip(fork_followers(source, self._pool), results, strict=True):
            self._queues.take_slot(follower)
            if result.failed:
                outputs.append(self._finish(follower, FinishReason.ERROR, now_s))
            else:
                token_ids = self._append(follower, result.token_ids)
                outputs.append(self._deliver(follower, token_ids, now_s))
        return outputs

    def _extend_beams(
        self, beam: Request, group: BeamGroup, candidates: Sequence[Candidate], now_s: float
    ) -> list[StepOutput]:
        if beam.first_token_s is None:
            beam.first_token_s = now_s
        self.num_generated_tokens += 1
        change = group.extend(beam, candidates, self._pool)
        if change is None:
            reason, hypotheses = group.outcome()
            return [beam_output(self._finish(group.leader, reason, now_s), hypotheses)]
        self._queues.swap(*change)
        return []

    def _retry_smaller(self, request: Request, now_s: float) -> list[StepOutput]:
        """Compute a request again in smaller steps; end it if that was of no use before."""
        self._token_limit.lower()
        request.num_oom_retries += 1
        if request.num_oom_retries > MAX_OOM_RETRIES:
            return [self._finish(request, FinishReason.ERROR, now_s)]
        self._preemption.preempt(request, f"no memory for its chunk, now {self._token_limit!r}")
        return []

    def _advance(self, chunk: Chunk, drawn: tuple[int, ...]) -> tuple[int, ...]:
        """Count the chunk as computed and append what was drawn; return the appended tokens.

        The drafts among them are computed too. Those that were not drawn leave no trace.
        """
        request = chunk.request
        token_ids = self._append(request, drawn)
        request.num_computed_tokens = chunk.start + chunk.num_known + max(0, len(token_ids) - 1)
        if chunk.drafts:
            self._speculation.observe(request, len(chunk.drafts), len(drawn) - 1)
            self._blocks.trim(request)
        return token_ids

    def _append(self, request: Request, drawn: tuple[int, ...]) -> tuple[int, ...]:
        token_ids = request.append(drawn)
        self.num_generated_tokens += len(token_ids)
        return token_ids

    def _deliver(self, request: Request, token_ids: tuple[int, ...], now_s: float) -> StepOutput:
        """Return the output of tokens just appended; end the request if they end it."""
        if request.first_token_s is None:
            request.first_token_s = now_s
        reason = request.end_reason
        if reason is None:
            return progress(request, token_ids)
        if reason is FinishReason.STOP and not request.params.include_stop_token:
            token_ids = token_ids[:-1]
        return self._finish(request, reason, now_s, token_ids)

    def __repr__(self) -> str:
        return f"StepCommitter({self.num_generated_tokens} tokens generated)"
