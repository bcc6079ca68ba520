"""Random lives of many requests: the accounts hold after every action, and no output changes."""

import itertools
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.generator.engine import Engine, EngineConfig, FinishReason, SamplingParams
from services.generator.engine.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor, next_token
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=40, eos_token_id=7)


class Schedules(RuleBasedStateMachine):
    """An engine over a fake executor, driven by adds, aborts, steps, failures and time."""

    @initialize(
        num_blocks=st.integers(10, 24),
        max_num_seqs=st.integers(1, 5),
        spare_budget=st.integers(0, 12),
    )
    def start(self, num_blocks: int, max_num_seqs: int, spare_budget: int) -> None:
        self.now_s = 0.0
        self.executor = FakeExecutor(4)
        config = EngineConfig(
            Path("unused"), None, max_num_seqs, max_num_seqs + spare_budget, block_size=4
        )
        pool = BlockPool(num_blocks, 4)
        self.engine = Engine(config, MODEL, self.executor, pool, clock=lambda: self.now_s)
        self.pool = pool
        self.ids = itertools.count()
        self.live: dict[str, tuple[list[int], SamplingParams, list[int]]] = {}
        self.failing: set[str] = set()
        self.executor.fails = lambda chunk: chunk.request.request_id in self.failing
        self.num_ended = 0

    @rule(
        prefix=st.integers(0, 1),
        prefix_length=st.integers(0, 16),
        tail=st.lists(st.integers(0, 49), min_size=1, max_size=8),
        max_tokens=st.integers(1, 16),
        priority=st.integers(-1, 1),
        patience_s=st.none() | st.integers(0, 6),
        ignore_eos=st.booleans(),
        prompt_logprobs=st.sampled_from([None, None, 0]),
    )
    def add(
        self, prefix: int, prefix_length: int, tail: list[int], max_tokens: int, **rest: Any
    ) -> None:
        prompt = [prefix] * prefix_length + tail
        params = SamplingParams(
            max_tokens,
            temperature=0,
            ignore_eos=rest["ignore_eos"],
            prompt_logprobs=rest["prompt_logprobs"],
        )
        request_id = str(next(self.ids))
        patience_s = rest["patience_s"]
        deadline = None if patience_s is None else self.now_s + patience_s
        self.engine.add(request_id, prompt, params, priority=rest["priority"], deadline=deadline)
        self.live[request_id] = (prompt, params, [])

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

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.now_s += 1.0
            for output in self.engine.step():
                self.take(output)
            self.engine.check()

    def take(self, output: Any) -> None:
        prompt, params, delivered = self.live[output.request_id]
        if output.prompt_logprobs or (output.token_ids and not delivered):
            # all of it with the first token and never again, whatever was preempted or cached
            scored = prompt[1:] if params.prompt_logprobs is not None else []
            assert [one.token_id for one in output.prompt_logprobs] == scored and not delivered
        delivered += output.token_ids
        if output.finish_reason is None:
            return
        del self.live[output.request_id]
        self.num_ended += 1
        expected = self.expected(prompt, params)
        assert delivered == expected[: len(delivered)]
        if output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert delivered == expected

    def expected(self, prompt: list[int], params: SamplingParams) -> list[int]:
        token_ids = list(prompt)
        while len(token_ids) < len(prompt) + params.max_tokens:
            token_id = next_token(token_ids)
            if token_id == 7 and not params.ignore_eos:
                break
            token_ids.append(token_id)
        return token_ids[len(prompt) :]

    @invariant()
    def accounts_hold(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()
            stats = self.engine.stats()
            assert sum(stats.outcomes.values()) == self.num_ended
            assert stats.num_running + stats.num_waiting == len(self.live)

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
TestRandomSchedules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
