"""A scheduler that runs step by step over the fake executor."""

from typing import Any

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.outputs import StepOutput
from services.generator.engine.scheduling.scheduler import Scheduler
from tests.generator.engine.fake_executor import FakeExecutor


class Loop:
    """A scheduler with a fake executor and a clock that counts steps."""

    def __init__(
        self,
        num_blocks: int = 64,
        max_num_seqs: int = 8,
        max_batched_tokens: int = 16,
        **options: Any,
    ) -> None:
        self.pool = BlockPool(num_blocks, 4)
        self.scheduler = Scheduler(self.pool, max_num_seqs, max_batched_tokens, **options)
        self.executor = FakeExecutor(4)
        self.now_s = 0.0
        self.sizes: dict[str, int] = {}

    def step(self) -> list[StepOutput]:
        self.now_s += 1.0
        chunks = self.scheduler.schedule(self.now_s)
        self.sizes = {chunk.request.request_id: chunk.num_tokens for chunk in chunks}
        outputs = self.scheduler.commit(chunks, self.executor.execute(chunks), self.now_s)
        self.scheduler.check()
        return outputs

    def finish_all(self, limit: int = 1000) -> dict[str, StepOutput]:
        ended = {}
        while self.scheduler.running or self.scheduler.waiting:
            limit -= 1
            assert limit > 0, "no progress"
            ended |= {o.request_id: o for o in self.step() if o.finish_reason}
        return ended
