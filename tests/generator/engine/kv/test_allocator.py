"""Block allocation: tables grow, forks share blocks, a shared block is copied before a write."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.generator.engine import (
    SamplingParams,
)
from services.generator.engine.kv.allocator import BlockAllocator
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.request import Request
from services.generator.engine.sequences.fork import fork


class Tables(RuleBasedStateMachine):
    """Requests that fork, write and end over one pool; a model of the blocks' content beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(16, 4)
        self.blocks = BlockAllocator(self.pool, PrefixSharing(self.pool, False))
        self.content: dict[tuple[int, int], int] = {}
        self.live: list[Request] = []
        self.num_made = 0

    def make(self, priority: int) -> Request:
        self.num_made += 1
        params = SamplingParams()
        root = root_hash("")
        index = self.num_made
        return Request(str(index), [], params, 0, frozenset(), root, index, 0.0, priority)

    @rule(priority=st.integers(-1, 1))
    def begin(self, priority: int) -> None:
        self.live.append(self.make(priority))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), priority=st.integers(-1, 1), reuse=st.booleans())
    def fork(self, data: st.DataObject, priority: int, reuse: bool) -> None:
        source = data.draw(st.sampled_from(self.live))
        target = data.draw(st.sampled_from(self.live)) if reuse else self.make(priority)
        if target is source:
            return
        fork(source, target, self.pool)
        if not reuse:
            self.live.append(target)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token_ids=st.lists(st.integers(0, 9), min_size=1, max_size=6))
    def write(self, data: st.DataObject, token_ids: list[int]) -> None:
        request = data.draw(st.sampled_from(self.live))
        num_tokens = request.num_tokens + len(token_ids)
        free_before = self.pool.num_available
        num_missing = self.blocks.num_missing(request, num_tokens)
        if not self.blocks.ensure(request, num_tokens):
            assert num_missing > self.pool.num_available == free_before
            return
        assert free_before - self.pool.num_available == num_missing
        for source, target in self.blocks.take_copies():
            for offset in range(4):
                if (source, offset) in self.content:
                    self.content[target, offset] = self.content[source, offset]
        for token_id in token_ids:
            block_id = request.block_ids[request.num_tokens // 4]
            assert self.pool.num_holders(block_id) == 1, "a shared block is written"
            self.content[block_id, request.num_tokens % 4] = token_id
            request.token_ids.append(token_id)
        request.num_computed_tokens = request.num_tokens

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live))
        self.live.remove(request)
        self.pool.release(request.block_ids)

    @invariant()
    def every_table_holds_its_tokens(self) -> None:
        self.pool.check(request.block_ids for request in self.live)
        for request in self.live:
            held = [
                self.content[request.block_ids[position // 4], position % 4]
                for position in range(request.num_tokens)
            ]
            assert held == request.token_ids


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
