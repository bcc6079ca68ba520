"""Random lives of many requests: the accounts hold after every action, and no output changes.

`make schedules` is the exhaustive run, ten thousand of them.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.generator.engine import (
    Engine,
    EngineConfig,
    FinishReason,
    QueueFullError,
    RequestError,
    SamplingParams,
)
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.errors import OutOfMemoryError
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.events import BlockEventKind
from services.generator.engine.kv.prefix_cache import chain_hash, root_hash
from services.generator.engine.sequences.fork import sequence_id
from tests.generator.engine.fake_executor import (
    FakeExecutor,
    best_beams,
    drawn_token,
    hashed_token,
    repeating_token,
)
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=40, eos_token_id=7)


class Schedules(RuleBasedStateMachine):
    """An engine over a fake executor, driven by adds, aborts, steps, failures and time."""

    @initialize(
        num_blocks=st.integers(10, 24),
        max_num_seqs=st.integers(1, 5),
        spare_budget=st.integers(0, 24),
        output_quantile=st.sampled_from([0.0, 0.4, 0.9]),
        max_queued_requests=st.none() | st.integers(1, 4),
        max_queued_tokens=st.none() | st.integers(8, 40),
        prefix_caching=st.sampled_from([True, True, True, False]),
        target_step_s=st.sampled_from([None, 0.0, 0.5, 1.5, 4.0]),
        speculative_tokens=st.sampled_from([0, 1, 3, 7]),
        repeats=st.booleans(),
        launches_ahead=st.booleans(),
    )
    def start(
        self,
        num_blocks: int,
        max_num_seqs: int,
        spare_budget: int,
        repeats: bool,
        launches_ahead: bool,
        **options: Any,
    ) -> None:
        self.now_s = 0.0
        self.next_token = repeating_token if repeats else hashed_token
        self.executor = FakeExecutor(4, self.next_token)
        self.executor.launches_ahead = launches_ahead
        config = EngineConfig(
            Path("unused"),
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_num_seqs + spare_budget,
            block_size=4,
            **options,
        )
        pool = BlockPool(num_blocks, 4)
        self.engine = Engine(config, MODEL, self, pool, clock=lambda: self.now_s)
        self.pool = pool
        self.ids = itertools.count()
        self.live: dict[str, tuple[list[int], SamplingParams, int, list[int]]] = {}
        self.failing: set[str] = set()
        self.is_broken = False
        self.num_faults = 0
        self.misread: list[Exception] = []
        self.num_roomy_tokens = 10**9
        self.executor.fails = lambda chunk: chunk.request.request_id in self.failing
        self.num_ended = 0
        self.num_refused = 0
        self.known: dict[bytes, bytes] = {}
        self.last_event = 0
        self.pins: list[list[bytes]] = []

    def execute(self, chunks: Sequence[Chunk], overlap: Callable[[], object]) -> list[ChunkResult]:
        """Compute as the fake executor does, in time that grows with the tokens."""
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        assert num_tokens <= self.engine.config.max_batched_tokens
        self.now_s += 0.1 + 0.05 * num_tokens
        if self.is_broken:
            raise RuntimeError("the machine burns")
        if num_tokens > self.num_roomy_tokens:
            raise OutOfMemoryError("no room")
        try:
            return self.executor.execute(chunks, overlap)
        except (AssertionError, LookupError) as error:
            # the engine takes it for a fault of the machine's, and goes on
            self.misread.append(error)
            raise

    def clear(self, block_ids: Sequence[int]) -> None:
        self.executor.clear(block_ids)

    def release_memory(self) -> None:
        """Nothing is held."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.executor.copy(pairs)

    @rule(
        prefix=st.integers(0, 1),
        prefix_length=st.integers(0, 16),
        tail=st.lists(st.integers(0, 49), min_size=1, max_size=8),
        max_tokens=st.integers(1, 16),
        priority=st.integers(-1, 1),
        patience_s=st.none() | st.integers(0, 6),
        ignore_eos=st.booleans(),
        prompt_logprobs=st.sampled_from([None, None, 0]),
        tenant=st.sampled_from(["", "a", "b"]),
        salt=st.sampled_from(["", "", "", "salt"]),
        count=st.integers(1, 3),
        n=st.sampled_from([1, 1, 2, 4]),
        beam_width=st.sampled_from([0, 0, 0, 2, 4]),
    )
    def add(
        self, prefix: int, prefix_length: int, tail: list[int], max_tokens: int, **rest: Any
    ) -> None:
        prompt = [prefix] * prefix_length + tail
        most = self.engine.config.max_num_seqs
        beam_width = rest["beam_width"] if 2 <= rest["beam_width"] <= most else 0
        params = SamplingParams(
            max_tokens,
            temperature=0,
            ignore_eos=rest["ignore_eos"],
            prompt_logprobs=None if beam_width else rest["prompt_logprobs"],
            n=min(rest["n"], beam_width or most),
            beam_width=beam_width,
        )
        patience_s = rest["patience_s"]
        deadline = None if patience_s is None else self.now_s + patience_s
        for _ in range(rest["count"]):
            request_id = str(next(self.ids))
            try:
                self.engine.add(
                    request_id,
                    prompt,
                    params,
                    cache_salt=rest["salt"],
                    priority=rest["priority"],
                    deadline=deadline,
                    tenant=rest["tenant"],
                )
            except RequestError as error:
                assert error.field == "beam_width"
            except QueueFullError as error:
                assert 0.0 <= error.expected_wait_s <= 600.0
                assert self.engine.stats().num_waiting > 0
                self.num_refused += 1
            else:
                for branch in range(1 if beam_width else params.n):
                    self.live[sequence_id(request_id, branch)] = (prompt, params, branch, [])

    @rule(prefix=st.integers(0, 1), num_blocks=st.integers(1, 4))
    def pin(self, prefix: int, num_blocks: int) -> None:
        hashes = [root_hash("")]
        for _ in range(num_blocks):
            hashes.append(chain_hash(hashes[-1], [prefix] * 4))
        self.pool.pin(hashes[1:])
        self.pins.append(hashes[1:])

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        self.pool.unpin(self.pins.pop())

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        self.take(self.engine.abort(request_id))
        assert self.engine.abort(request_id) is None

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.failing.add(data.draw(st.sampled_from(sorted(self.live))))

    @rule(in_commit=st.booleans())
    def fault(self, in_commit: bool) -> None:
        """Break a step, or lose what it did; a good step follows, so that it is forgiven."""
        scheduler = self.engine._scheduler
        commit = scheduler.commit
        self.is_broken = not in_commit
        if in_commit:
            scheduler.commit = lambda *args: [commit(*args), 1 / 0]  # type: ignore[method-assign]
        self.step(1)
        self.is_broken = False
        scheduler.commit = commit  # type: ignore[method-assign]
        self.step(1)
        self.engine._num_faults_in_a_row = 0
        self.num_faults = self.engine.stats().num_faults

    @rule(num_tokens=st.integers(0, 8), count=st.integers(1, 3))
    def run_out_of_memory(self, num_tokens: int, count: int) -> None:
        """Larger steps find no memory for a while."""
        self.num_roomy_tokens = num_tokens
        self.step(count)
        self.num_roomy_tokens = 10**9

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            for output in self.engine.step():
                self.take(output)
            self.engine.check()

    def take(self, output: Any) -> None:
        prompt, params, branch, delivered = self.live[output.request_id]
        if output.prompt_logprobs or (output.token_ids and not delivered):
            # all of it with the first token and never again, whatever was preempted or cached
            scored = prompt[1:] if params.prompt_logprobs is not None else []
            assert [one.token_id for one in output.prompt_logprobs] == scored and not delivered
        delivered += output.token_ids
        if output.finish_reason is None:
            return
        del self.live[output.request_id]
        self.num_ended += 1
        expected = self.expected(prompt, params, branch)
        assert delivered == expected[: len(delivered)]
        if output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert delivered == expected
            assert len(output.other_beams) == (params.n - 1 if params.beam_width else 0)

    def expected(self, prompt: list[int], params: SamplingParams, branch: int) -> list[int]:
        if params.beam_width:
            return best_beams(prompt, params, () if params.ignore_eos else (7,))[0]
        token_ids = list(prompt)
        while len(token_ids) < len(prompt) + params.max_tokens:
            token_id = drawn_token(self.next_token, token_ids, branch)
            if token_id == 7 and not params.ignore_eos:
                break
            token_ids.append(token_id)
        return token_ids[len(prompt) :]

    @invariant()
    def accounts_hold(self) -> None:
        if hasattr(self, "engine"):
            assert not self.misread, f"a chunk read what it should not: {self.misread}"
            self.engine.check()
            self.follow_events()
            stats = self.engine.stats()
            assert stats.num_faults == self.num_faults, "the engine survived a bug of its own"
            assert stats.num_refusals == self.num_refused
            assert stats.num_waiting_tokens >= stats.num_waiting
            assert 0.0 <= stats.kv_waste <= 1.0
            assert sum(stats.outcomes.values()) == self.num_ended
            searching = sum(params.beam_width > 0 for _, params, _, _ in self.live.values())
            num_extra = stats.num_running + stats.num_waiting - len(self.live)
            assert 0 <= num_extra <= 3 * searching

    def follow_events(self) -> None:
        events = self.engine.prefix_cache.events_since(self.last_event)
        assert events is not None
        for event in events:
            self.last_event += 1
            assert event.number == self.last_event
            if event.kind is BlockEventKind.STORED:
                self.known[event.block_hash] = event.parent_hash
            else:
                assert self.known.pop(event.block_hash) == event.parent_hash
        snapshot = self.engine.prefix_cache.snapshot()
        assert (snapshot.number, dict(snapshot.blocks)) == (self.last_event, self.known)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(2000):
            if not self.engine.has_work:
                break
            self.step(1)
        assert not self.live, "some request never ended"
        assert self.pool.num_used == 0
        self.pool.check([])


TestRandomSchedules = Schedules.TestCase
TestRandomSchedules.settings = settings(
    max_examples=int(os.environ.get("SCHEDULES", "60")), stateful_step_count=40, deadline=None
)
