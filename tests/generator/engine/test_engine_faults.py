"""Faults that no single request is to blame for: they end requests, not the engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.generator.engine import (
    Engine,
    EngineConfig,
    EngineFaultError,
    FinishReason,
    SamplingParams,
)
from services.generator.engine.chunk import Chunk
from services.generator.engine.errors import OutOfMemoryError
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor, continuation
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=64, eos_token_id=7)
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(4)


@pytest.fixture
def engine(executor: FakeExecutor) -> Engine:
    config = EngineConfig(Path("unused"), max_num_seqs=2, max_batched_tokens=16, block_size=4)
    return Engine(config, MODEL, executor, BlockPool(12, 4))


def fill(engine: Engine, count: int) -> list[str]:
    """Add requests, of which two run at a time."""
    names = [f"r{number}" for number in range(count)]
    for number, name in enumerate(names, start=10):
        engine.add(name, [number, 2, 3, 4, 5, 6], GREEDY)
    return names


def reasons(outputs: list[Any]) -> dict[str, FinishReason]:
    return {o.request_id: o.finish_reason for o in outputs if o.finish_reason is not None}


def run(engine: Engine) -> dict[str, FinishReason]:
    """Step until idle; return the outcomes."""
    ended: dict[str, FinishReason] = {}
    while engine.has_work:
        ended |= reasons(engine.step())
        engine.check()
    return ended


def raising(error: Exception, when: Callable[[Chunk], bool]) -> Callable[[Chunk], bool]:
    """Make an executor's `raises` that raises an error of its own."""

    def check(chunk: Chunk) -> bool:
        if when(chunk):
            raise error
        return False

    return check


def serves(engine: Engine, name: str = "after") -> bool:
    """Whether the engine computes what a healthy one would."""
    engine.add(name, [1, 2, 3, 4, 5, 6], GREEDY)
    tokens: list[int] = []
    while engine.has_work:
        tokens += [token for output in engine.step() for token in output.token_ids]
        engine.check()
    return tokens == continuation([1, 2, 3, 4, 5, 6], 4)


def test_a_step_that_fails_for_all_ends_all(engine: Engine, executor: FakeExecutor) -> None:
    """When all requests of a step fail alone as well, all live ones end and the engine goes on."""
    names = fill(engine, 3)
    executor.raises = lambda chunk: True
    assert reasons(engine.step()) == dict.fromkeys(names, FinishReason.ERROR)
    engine.check()
    assert not engine.has_work
    assert (engine.stats().num_faults, engine.stats().num_blocks_used) == (1, 0)
    executor.raises = lambda chunk: False
    assert serves(engine)


def test_the_blocks_of_a_fault_are_cleared(engine: Engine, executor: FakeExecutor) -> None:
    """What the ended requests held is cleared before it is read, and no prefix is hit."""
    fill(engine, 2)
    engine.step()
    held = engine.stats().num_blocks_used
    executor.raises = lambda chunk: True
    engine.step()
    executor.raises = lambda chunk: False
    assert serves(engine)
    assert len(executor.cleared) == held
    assert engine.stats().num_prefix_hit_tokens == 0


def test_idle_prefixes_survive_a_fault(engine: Engine, executor: FakeExecutor) -> None:
    """A prefix that no request held when the fault came is still hit after it."""
    assert serves(engine, "before")
    engine.add("a", [9], GREEDY)
    engine.add("b", [8], GREEDY)
    executor.raises = lambda chunk: True
    engine.step()
    executor.raises = lambda chunk: False
    assert serves(engine)
    assert engine.stats().num_prefix_hit_tokens == 4


@pytest.mark.parametrize("method", ["expire", "schedule", "commit"])
@pytest.mark.parametrize("works_first", [False, True])
def test_a_fault_of_the_scheduler_ends_all(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str, works_first: bool
) -> None:
    """Wherever it strikes, each request has one outcome, and the accounts hold."""
    names = fill(engine, 3)
    engine.step()
    real = getattr(engine._scheduler, method)

    def burn(*args: Any) -> None:
        if works_first:
            real(*args)
        raise KeyError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(engine._scheduler, method, burn)
        for _ in range(2):
            engine.step()
            engine.check()
    assert engine.stats().outcomes[FinishReason.ERROR] == len(names)
    assert serves(engine)


def test_an_outcome_of_the_faulty_step_is_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that ended in the step whose outputs were lost ends with ERROR, once."""
    engine.add("a", [1], SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
    commit = engine._scheduler.commit

    def burn(*args: Any) -> None:
        assert commit(*args)[0].finish_reason is FinishReason.LENGTH
        raise KeyError("lost")

    monkeypatch.setattr(engine._scheduler, "commit", burn)
    assert reasons(engine.step()) == {"a": FinishReason.ERROR}
    assert engine.stats().outcomes == {FinishReason.LENGTH: 0, FinishReason.ERROR: 1}


def test_the_third_fault_in_a_row_is_the_engines(engine: Engine, executor: FakeExecutor) -> None:
    """Two faults in a row are survived, the third is raised: the machine is at fault."""
    executor.raises = lambda chunk: True
    for _ in range(2):
        fill(engine, 2)
        assert engine.step()
    fill(engine, 2)
    with pytest.raises(EngineFaultError, match="3 faults in a row"):
        engine.step()


def test_a_good_step_forgives(engine: Engine, executor: FakeExecutor) -> None:
    """Faults with a good step between them are not counted together; an idle step is none."""
    for number in range(4):
        executor.raises = lambda chunk: True
        fill(engine, 2)
        engine.step()
        engine.step()
        executor.raises = lambda chunk: False
        assert serves(engine, f"after {number}")
    assert engine.stats().num_faults == 4


def test_blocks_that_cannot_be_cleared_stay_tainted(
    engine: Engine, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault while clearing leaves the blocks to be cleared before the next step."""
    executor.fails = lambda chunk: True
    engine.add("bad", [1] * 6, GREEDY)
    engine.step()
    executor.fails = lambda chunk: False

    def burn(block_ids: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(executor, "clear", burn)
        engine.step()
    assert serves(engine)
    assert len(executor.cleared) == 2


def test_want_of_memory_ends_the_requests_concerned(engine: Engine, executor: FakeExecutor) -> None:
    """Requests for which there is no memory end, however many times; those that wait go on."""
    for _ in range(4):
        names = fill(engine, 3)
        executor.raises = raising(
            OutOfMemoryError(NO_MEMORY), lambda chunk: chunk.request.request_id != "r2"
        )
        ended = run(engine)
        assert ended == {
            names[0]: FinishReason.ERROR,
            names[1]: FinishReason.ERROR,
            names[2]: FinishReason.LENGTH,
        }
    assert engine.stats().num_faults == 0


def test_a_batch_too_large_for_the_memory_runs_in_parts(
    engine: Engine, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the whole batch finds no memory, no request ends."""
    execute = executor.execute

    def small_only(chunks: Any, overlap: Any) -> Any:
        if len(chunks) > 1:
            raise OutOfMemoryError(NO_MEMORY)
        return execute(chunks, overlap)

    monkeypatch.setattr(executor, "execute", small_only)
    names = fill(engine, 3)
    assert run(engine) == dict.fromkeys(names, FinishReason.LENGTH)
