"""Gateway and engine order what waits alike."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.fair_queue import QUANTUM
from services.gateway.domain.generation import Model
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.job import Job
from services.gateway.generation.routing import Report
from services.generator.engine.chunk import ChunkResult
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.scheduler import Scheduler

MODEL = Model("m", "r", 4096, 100)
ROWS = st.lists(
    st.tuples(st.integers(-1, 1), st.sampled_from("abc"), st.integers(1, 2 * QUANTUM)), max_size=12
)
Row = tuple[int, str, int]


@settings(deadline=None)
@given(ROWS)
def test_gateway_and_engine_order_alike(rows: list[Row]) -> None:
    """The same waiting set, one place that becomes free again and again: the same order."""
    assert list(_dispatched(rows)) == list(_started(rows))


def _dispatched(rows: list[Row]) -> Iterator[str]:
    fleet = Dispatcher(len(rows), 100_000)
    report = Report("r1", MODEL, 0, 10_000, 0, False, frozenset())
    fleet.report(report, 0.0)
    for index, (priority, tenant, tokens) in enumerate(rows):
        job = Job(str(index), MODEL, 1, tokens, float(index), tenant, priority)
        assert not fleet.submit(job).send
    work = fleet.report(Report("r1", MODEL, 1, 10_000, 0, False, frozenset()), 0.5)
    while work.send:
        (job,) = work.send
        yield job.id
        work = fleet.ended(job.id)


def _started(rows: list[Row]) -> Iterator[str]:
    scheduler = Scheduler(BlockPool(300, 16), max_num_seqs=1, max_batched_tokens=64)
    for index, (priority, tenant, tokens) in enumerate(rows):
        params = SamplingParams(tokens)
        request = Request(
            str(index),
            [index],
            params,
            seed=0,
            stop_token_ids=frozenset({0}),
            root_hash=root_hash(""),
            arrival_index=index,
            arrival_s=0.0,
            priority=priority,
            tenant=tenant,
        )
        scheduler.add(request)
    while chunks := scheduler.schedule(0.0):
        (chunk,) = chunks
        yield chunk.request.request_id
        scheduler.commit(chunks, [ChunkResult((0,))], 0.0)
