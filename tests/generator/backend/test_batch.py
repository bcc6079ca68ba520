"""How chunks become tensors."""

from collections.abc import Callable

import torch

from services.generator.backend.batch import build_batch
from services.generator.backend.cpu.attention.torch_plan import TorchPlan
from services.generator.engine.chunk import Chunk
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams

MakeRequest = Callable[..., Request]


def chunk(make_request: MakeRequest, start: int, num_tokens: int, length: int, first: int) -> Chunk:
    """Make a chunk of a request with `length` tokens and blocks numbered from `first`."""
    request = make_request(range(length))
    request.block_ids = list(range(first, first + -(-length // 4)))
    return Chunk(request, start, num_tokens)


def test_decodes_come_first_longest_first(make_request: MakeRequest) -> None:
    """Rows are ordered for the attention; sampling rows are the last of each finished chunk."""
    prompt = chunk(make_request, 0, 3, 3, 0)
    partial = chunk(make_request, 4, 2, 9, 10)
    short, long = chunk(make_request, 4, 1, 5, 20), chunk(make_request, 8, 1, 9, 30)
    batch = build_batch([prompt, short, partial, long], 4)
    assert batch.chunks == [long, short, prompt, partial]
    assert batch.token_ids.tolist() == [8, 4, 0, 1, 2, 4, 5]
    assert batch.positions.tolist() == [8, 4, 0, 1, 2, 4, 5]
    assert batch.sample_rows.tolist() == [0, 1, 4]
    assert batch.tables.slots.tolist() == [32 * 4, 21 * 4, 0, 1, 2, 11 * 4, 11 * 4 + 1]


def test_short_contexts_are_padded_and_masked(make_request: MakeRequest) -> None:
    """A shorter context of a group is filled with a valid block that no query sees."""
    short, long = chunk(make_request, 4, 1, 5, 20), chunk(make_request, 8, 1, 9, 30)
    [group] = TorchPlan.of(build_batch([short, long], 4).tables, 4).groups
    assert group.block_ids.tolist() == [30, 31, 32, 20, 21, 0]
    assert group.context_length == 9
    assert group.mask is not None
    assert (group.mask == 0).sum(dim=-1).flatten().tolist() == [9, 5]


def test_equal_contexts_need_no_mask(make_request: MakeRequest) -> None:
    """Nothing is masked where nothing is padded."""
    pair = [chunk(make_request, 4, 1, 5, first) for first in (0, 10)]
    [group] = TorchPlan.of(build_batch(pair, 4).tables, 4).groups
    assert group.mask is None


def test_very_different_contexts_are_not_padded_together(make_request: MakeRequest) -> None:
    """A group's shortest context is at least half its longest, or nearly as long."""
    decodes = [chunk(make_request, n - 1, 1, n, 0) for n in (400, 210, 190, 5)]
    groups = TorchPlan.of(build_batch(decodes, 4).tables, 4).groups
    assert [group.num_rows for group in groups] == [2, 1, 1]


def test_a_first_chunk_gathers_nothing(make_request: MakeRequest) -> None:
    """A chunk from position 0 attends to itself; a later one gathers its blocks so far."""
    first, later = chunk(make_request, 0, 6, 9, 0), chunk(make_request, 6, 2, 40, 10)
    plan = TorchPlan.of(build_batch([first, later], 4).tables, 4)
    assert plan.chunks[0].block_ids is None
    assert plan.chunks[1].block_ids is not None
    assert plan.chunks[1].block_ids.tolist() == [10, 11]
    assert plan.chunks[1].context_length == 8


def test_a_batch_may_sample_nothing(make_request: MakeRequest) -> None:
    """A step of unfinished prompt chunks has no sampling row."""
    batch = build_batch([chunk(make_request, 0, 4, 9, 0)], 4)
    assert batch.sample_rows.tolist() == []
    assert batch.sample_rows.dtype == torch.int64


def test_scored_rows_are_those_before_a_prompt_token(make_request: MakeRequest) -> None:
    """A prompt to be scored needs all rows but its last, each once, whatever the chunks."""
    params = SamplingParams(prompt_logprobs=0)
    request = make_request(range(6), params=params)
    request.block_ids = [0, 1]
    plain = chunk(make_request, 0, 2, 2, 10)
    first = build_batch([Chunk(request, 0, 4), plain], 4)
    assert first.score_rows.tolist() == [0, 1, 2, 3]
    assert first.sample_rows.tolist() == [5]
    request.num_scored_tokens = 4
    rest = build_batch([Chunk(request, 4, 2), plain], 4)
    assert (rest.score_rows.tolist(), rest.sample_rows.tolist()) == ([0], [1, 3])
    # after a preemption the prompt is computed again, but not scored
    request.num_scored_tokens = 5
    assert build_batch([Chunk(request, 0, 6)], 4).score_rows.tolist() == []
