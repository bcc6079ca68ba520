"""A step that finds no memory: smaller steps, then preemption, then the one that ends."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from services.generator.engine import Engine, EngineConfig, FinishReason, SamplingParams
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.errors import OutOfMemoryError
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor, continuation
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=64, eos_token_id=7)
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)


class SmallDevice(FakeExecutor):
    """Has memory for passes of at most `room` tokens."""

    def __init__(self, room: int) -> None:
        super().__init__(4)
        self.room = room
        self.sizes: list[int] = []
        self.num_releases = 0

    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], object] = lambda: None
    ) -> list[ChunkResult]:
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        if num_tokens > self.room:
            raise OutOfMemoryError(f"no room for {num_tokens}")
        self.sizes.append(num_tokens)
        return super().execute(chunks, overlap)

    def release_memory(self) -> None:
        self.num_releases += 1


def make_engine(device: SmallDevice) -> Engine:
    config = EngineConfig(Path("unused"), max_num_seqs=2, max_batched_tokens=16, block_size=4)
    return Engine(config, MODEL, device, BlockPool(24, 4))


def run(engine: Engine) -> dict[str, tuple[FinishReason, list[int]]]:
    """Step until idle; return the outcomes with all tokens."""
    tokens: dict[str, list[int]] = {}
    ended: dict[str, tuple[FinishReason, list[int]]] = {}
    while engine.has_work:
        for output in engine.step():
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason is not None:
                ended[output.request_id] = output.finish_reason, tokens[output.request_id]
        engine.check()
    return ended


def test_a_batch_without_room_runs_in_halves() -> None:
    """Two prompts that do not fit together run one after the other; none is preempted."""
    device = SmallDevice(room=8)
    engine = make_engine(device)
    prompts = {"a": [1] * 8, "b": [2] * 8}
    for name, prompt in prompts.items():
        engine.add(name, prompt, GREEDY)
    assert run(engine) == {
        name: (FinishReason.LENGTH, continuation(prompt, 4)) for name, prompt in prompts.items()
    }
    assert device.sizes[:2] == [8, 8]
    assert (engine.stats().num_preemptions, device.num_releases) == (0, 1)


def test_what_a_batch_had_made_is_gone_when_parts_of_it_run() -> None:
    """The error does not keep the memory that its batch already had."""

    class Device(SmallDevice):
        def execute(
            self, chunks: Sequence[Chunk], overlap: Callable[[], object] = lambda: None
        ) -> list[ChunkResult]:
            num_alive.append(sum(ref() is not None for ref in earlier))
            activations = torch.zeros(8)
            earlier.append(weakref.ref(activations))
            return super().execute(chunks, overlap)

    earlier: list[weakref.ref[torch.Tensor]] = []
    num_alive: list[int] = []
    engine = make_engine(Device(room=8))
    for number, name in enumerate(("a", "b")):
        engine.add(name, [number] * 8, GREEDY)
    run(engine)
    assert len(num_alive) > 2 and not any(num_alive)


def test_a_chunk_without_room_is_computed_in_smaller_ones() -> None:
    """Its request is preempted and begins again with half the budget; its tokens are the same."""
    device = SmallDevice(room=4)
    engine = make_engine(device)
    engine.add("a", list(range(10, 26)), GREEDY)
    assert run(engine) == {"a": (FinishReason.LENGTH, continuation(list(range(10, 26)), 4))}
    assert device.sizes[:4] == [4, 4, 4, 4]
    assert engine.stats().num_preemptions == 2


def test_one_that_never_finds_room_ends_and_others_go_on() -> None:
    """After three retries it ends with an error; what fits is served before and after."""
    device = SmallDevice(room=0)
    engine = make_engine(device)
    engine.add("a", [1] * 8, GREEDY)
    assert run(engine) == {"a": (FinishReason.ERROR, [])}
    assert engine.stats().num_preemptions == 3
    device.room = 16
    engine.add("b", [2] * 8, GREEDY)
    assert run(engine)["b"] == (FinishReason.LENGTH, continuation([2] * 8, 4))


def test_a_running_stream_survives_a_moment_without_room() -> None:
    """A decode that finds no memory is computed again from its prompt; no token is lost."""
    device = SmallDevice(room=16)
    engine = make_engine(device)
    engine.add("a", [1] * 8, GREEDY)
    outputs = [*engine.step(), *engine.step()]
    device.room = 0
    outputs += engine.step()
    device.room = 16
    delivered = [token_id for output in outputs for token_id in output.token_ids]
    reason, rest = run(engine)["a"]
    assert (reason, [*delivered, *rest]) == (FinishReason.LENGTH, continuation([1] * 8, 4))
