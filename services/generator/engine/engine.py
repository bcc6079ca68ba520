"""Engine: continuous batching over a paged KV cache; admits requests and steps them together.

Knows token ids only, never text. Single-threaded: its owner calls it from one thread.
"""

import logging
import random
import time
import traceback
from collections.abc import Callable, Sequence

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.config import EngineConfig
from services.generator.engine.errors import EngineFaultError, OutOfMemoryError, RequestError
from services.generator.engine.executor import Executor, Overlap
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_cache import PrefixCache, root_hash
from services.generator.engine.outputs import StepOutput, collect_logprobs
from services.generator.engine.request import FinishReason, Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.scheduler import Scheduler
from services.generator.engine.sequences.beam_group import BeamGroup
from services.generator.engine.sequences.fork import plan_forks, sequence_id, sequence_seed
from services.generator.engine.stats import EngineStats
from services.generator.engine.validation import RequestValidator
from services.generator.model.checkpoint.config import ModelConfig

# so many faults without a good step between them say that the machine is at fault
MAX_FAULTS_IN_A_ROW = 3

logger = logging.getLogger(__name__)


class Engine:
    """Runs all live requests in batches, one step after the other; the KV cache reuses prefixes."""

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        runner: Executor,
        pool: BlockPool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.model_config = model_config
        self._runner = runner
        self._scheduler = Scheduler(
            pool,
            config.max_num_seqs,
            config.max_batched_tokens,
            output_quantile=config.output_quantile,
            max_queued_requests=config.max_queued_requests,
            max_queued_tokens=config.max_queued_tokens,
            target_step_s=config.target_step_s,
            speculative_tokens=config.speculative_tokens,
            prefix_caching=config.prefix_caching,
        )
        self._pool = pool
        self._validator = RequestValidator(config, model_config, pool)
        self._clock = clock
        self._random = random.Random(config.seed)
        self._requests: dict[str, Request] = {}
        self._num_steps = 0
        self._num_faults = 0
        self._num_faults_in_a_row = 0
        self._num_computed_tokens = 0
        self._last_step_tokens = 0
        self._last_step_s = 0.0

    @property
    def has_work(self) -> bool:
        """True while a request is live."""
        return bool(self._requests)

    @property
    def prefix_cache(self) -> PrefixCache:
        """The names of the cached blocks and their events; read on the engine's thread only."""
        return self._pool.prefix_cache

    @property
    def max_request_tokens(self) -> int:
        """The most tokens, prompt and output, that one request may reach."""
        return self._validator.max_request_tokens

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raise RequestError, naming the field, if this request could not be served."""
        self._validator.validate(prompt_token_ids, params)

    def add(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str = "",
        priority: int = 0,
        deadline: float | None = None,
        tenant: str = "",
    ) -> None:
        """Admit a request, whose every sequence from then on ends with exactly one outcome.

        Its sequences have the ids that `sequence_id` gives and the seeds of `sequence_seed`; those
        of a beam search come together in the only output of `request_id`.

        A lower `priority` number goes first; `deadline` is a `time.monotonic` moment. Requests
        share cached prefixes only within one `cache_salt`, and tenants take turns. Raises
        RequestError as `validate` does, and for an id that is already live; QueueFullError.
        """
        self.validate(prompt_token_ids, params)
        ids = [sequence_id(request_id, index) for index in range(params.num_sequences)]
        if not self._requests.keys().isdisjoint(ids):
            raise RequestError("request_id", f"{request_id} is already live")
        seed = self._random.getrandbits(64) if params.seed is None else params.seed
        first, *others = (
            Request(
                request_id=one_id,
                token_ids=list(prompt_token_ids),
                params=params,
                seed=sequence_seed(seed, index),
                stop_token_ids=self._validator.stop_token_ids(params),
                root_hash=root_hash(cache_salt),
                arrival_index=self._scheduler.num_admissions,
                arrival_s=self._clock(),
                priority=priority,
                deadline_s=deadline,
                tenant=tenant,
                branch=index,
            )
            for index, one_id in enumerate(ids)
        )
        admitted = _admitted(first, others)
        self._scheduler.add(*admitted)
        self._requests |= {request.request_id: request for request in admitted}

    def abort(
        self, request_id: str, reason: FinishReason = FinishReason.ABORT
    ) -> StepOutput | None:
        """End a request now and free its blocks; None if it is not live (any more)."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        output = self._scheduler.finish(request, reason, self._clock())
        del self._requests[request_id]
        return output

    def step(self) -> list[StepOutput]:
        """Run one iteration; return an output for each request that progressed or ended.

        A fault that no single request is to blame for ends them all, see `recover`.
        """
        try:
            return self._step()
        except Exception as error:
            return self.recover(error)

    def recover(self, fault: Exception) -> list[StepOutput]:
        """End all live requests with ERROR after a fault, and take back all blocks.

        Raises EngineFaultError for the third fault without a good step between them.
        """
        self._num_faults += 1
        self._num_faults_in_a_row += 1
        logger.error("a fault ends %d requests: %r", len(self._requests), self, exc_info=fault)
        if self._num_faults_in_a_row == MAX_FAULTS_IN_A_ROW:
            raise EngineFaultError(f"{MAX_FAULTS_IN_A_ROW} faults in a row") from fault
        outputs = self._scheduler.reset(self._requests.values(), self._clock())
        self._requests.clear()
        # what cannot be mended must not go on
        self.check()
        return outputs

    def stats(self) -> EngineStats:
        """Return the counters as they are now."""
        scheduler, pool = self._scheduler, self._pool
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=scheduler.waiting.num_prompt_tokens,
            num_waiting_for_prefix=scheduler.admission.num_waiting_for_prefix,
            drain_tokens_per_s=scheduler.queue_limits.drain_rate.tokens_per_s,
            expected_wait_s=scheduler.queue_limits.expected_wait_s(scheduler.waiting),
            num_blocks_total=pool.num_blocks,
            num_blocks_free=pool.num_free,
            num_blocks_cached=pool.num_cached,
            num_blocks_used=pool.num_used,
            kv_waste=scheduler.blocks.waste(scheduler.running),
            last_step_s=self._last_step_s,
            last_step_tokens=self._last_step_tokens,
            num_steps=self._num_steps,
            num_faults=self._num_faults,
            num_admissions=scheduler.num_admissions,
            num_refusals=scheduler.queue_limits.num_refusals,
            outcomes=dict(scheduler.outcomes),
            num_preemptions=scheduler.preemption.num_preemptions,
            num_preempted_blocks=scheduler.preemption.num_preempted_blocks,
            num_preempted_tokens=scheduler.preemption.num_preempted_tokens,
            num_computed_tokens=self._num_computed_tokens,
            num_generated_tokens=scheduler.committer.num_generated_tokens,
            num_prefix_hit_tokens=scheduler.prefixes.num_hit_tokens,
            num_prefix_query_tokens=scheduler.prefixes.num_query_tokens,
            num_prefix_waits=scheduler.prefixes.num_waits,
            num_drafts=scheduler.speculation.num_drafts,
            num_draft_tokens=scheduler.speculation.num_draft_tokens,
            num_accepted_tokens=scheduler.speculation.num_accepted_tokens,
            num_accepted_tokens_per_pos=tuple(scheduler.speculation.num_accepted_tokens_per_pos),
        )

    def check(self) -> None:
        """Assert every account of the engine: blocks, holders, outcomes, live requests."""
        self._scheduler.check()
        live = [*self._scheduler.running, *self._scheduler.waiting]
        num_live = sum(request is request.owner for request in live)
        assert num_live == len(self._requests), "live requests differ. This is a bug."

    def _step(self) -> list[StepOutput]:
        started_s = self._clock()
        self._clear_tainted()
        outputs = self._scheduler.expire(started_s)
        chunks = self._scheduler.schedule(started_s)
        self._runner.copy(self._scheduler.take_copies())
        if chunks:
            results = self._execute(chunks, lambda: self._scheduler.plan_ahead(chunks))
            collect_logprobs(chunks, results)
            outputs += self._scheduler.commit(chunks, results, self._clock())
            if not any(result.out_of_memory for result in results):
                self._count(chunks, self._clock() - started_s)
            self._num_faults_in_a_row = 0
        for output in outputs:
            if output.finish_reason is not None:
                del self._requests[output.request_id]
        return outputs

    def _clear_tainted(self) -> None:
        block_ids = self._pool.take_tainted()
        try:
            self._runner.clear(block_ids)
        except Exception:
            self._pool.taint(block_ids)
            raise

    def _execute(self, chunks: Sequence[Chunk], overlap: Overlap) -> list[ChunkResult]:
        """Run the batch; where it raises, run less of it, so that only the cause fails.

        Raises the last error when every one of several chunks fails, unless for want of memory.
        """
        try:
            return self._runner.execute(chunks, overlap)
        except OutOfMemoryError as error:
            return self._execute_in_halves(chunks, error)
        except Exception:
            logger.exception("a batch of %d failed, isolating the cause", len(chunks))
        results, faults = [], []
        for chunk in chunks:
            try:
                results += self._runner.execute([chunk], lambda: ())
            except OutOfMemoryError as error:
                results += self._execute_in_halves([chunk], error)
            except Exception as fault:
                logger.exception("%r failed", chunk.request)
                results.append(ChunkResult(failed=True))
                faults.append(fault)
        if 1 < len(chunks) == len(faults):
            raise EngineFaultError(f"all {len(chunks)} requests of a step failed") from faults[-1]
        return results

    def _execute_in_halves(self, chunks: Sequence[Chunk], error: Exception) -> list[ChunkResult]:
        """Run a batch for which there was no memory in parts, down to single chunks."""
        logger.warning("no memory for a batch of %d: %s", len(chunks), error)
        # the frames that it passed hold what the batch had made
        traceback.clear_frames(error.__traceback__)
        self._runner.release_memory()
        if len(chunks) == 1:
            return [ChunkResult(out_of_memory=True)]
        middle = len(chunks) // 2
        return [
            result
            for part in (chunks[:middle], chunks[middle:])
            for result in self._execute(part, lambda: ())
        ]

    def _count(self, chunks: Sequence[Chunk], step_s: float) -> None:
        self._num_steps += 1
        self._last_step_s = step_s
        self._scheduler.observe_step(chunks, step_s)
        self._last_step_tokens = sum(chunk.num_tokens for chunk in chunks)
        self._num_computed_tokens += self._last_step_tokens

    def __repr__(self) -> str:
        return f"Engine(step {self._num_steps}, {self._scheduler!r}, {self._runner!r})"


def _admitted(first: Request, others: list[Request]) -> list[Request]:
    """Plan a request's sequences; return those that are scheduled and end on their own."""
    if first.params.beam_width:
        BeamGroup(first, others)
        return [first]
    plan_forks(first, others)
    return [first, *others]
