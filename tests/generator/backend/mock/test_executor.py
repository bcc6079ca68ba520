"""The mock model under the real engine: its tokens, its times and what becomes of blocks."""

import math
from typing import Any

import pytest

from services.generator.backend.mock.config import MockConfig
from services.generator.engine import FinishReason, SamplingParams
from services.generator.engine.kv.events import BlockEventKind
from tests.generator.backend.mock.engines import (
    BLOCK,
    EOS,
    VOCAB,
    FakeTime,
    generate,
    make_engine,
    run,
    tokens,
)

PROMPT = list(range(20, 41))
TIMES = MockConfig(first_token_s=1.0, token_s=0.25)


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 5}])
@pytest.mark.parametrize(
    ("options", "num_preemptions"),
    [({}, 0), ({"num_blocks": 20, "output_quantile": 0.0}, 1), ({"max_batched_tokens": 8}, 0)],
    ids=["roomy", "preempted", "in chunks"],
)
def test_a_sequence_has_its_tokens_whatever_runs_beside_it(
    params: dict[str, Any], options: dict[str, Any], num_preemptions: int
) -> None:
    """Alone, batched, cut into chunks and computed again after a preemption they are the same."""
    prompts = [[*PROMPT[:9], index] for index in range(5)]
    wanted = {
        str(index): generate(make_engine(), prompt, max_tokens=20, **params)
        for index, prompt in enumerate(prompts)
    }
    engine = make_engine(**options)
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(**{"max_tokens": 20, "temperature": 0.0, **params})
        engine.add(str(index), prompt, sampling)
    assert {name: tokens(outputs) for name, outputs in run(engine).items()} == wanted
    assert engine.stats().num_preemptions >= num_preemptions
    assert len(set(map(tuple, wanted.values()))) == len(prompts)


def test_drafts_change_no_token() -> None:
    """Guesses are kept where the model draws the same, and only there."""
    options: dict[str, Any] = {"max_tokens": 150, "allowed_token_ids": (1, 2)}
    plain = generate(make_engine(), PROMPT, **options)
    # what a draft is worth is learnt from the time of steps
    drafting = make_engine(TIMES, speculative_tokens=7)
    assert generate(drafting, PROMPT, **options) == plain
    stats = drafting.stats()
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens


def test_the_next_token_follows_from_those_before_it() -> None:
    """A prompt that ends with generated tokens goes on as the request that generated them."""
    whole = generate(make_engine(), PROMPT, max_tokens=12)
    assert generate(make_engine(), PROMPT + whole[:5], max_tokens=7) == whole[5:]
    assert generate(make_engine(), [99, *PROMPT[1:]], max_tokens=12) != whole


def test_a_seed_draws_other_tokens_and_choices_differ() -> None:
    """Greedy takes the likeliest; what is drawn depends on the seed and on the choice."""
    drawn = [
        generate(make_engine(), PROMPT, max_tokens=12, temperature=1.0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    engine = make_engine()
    engine.add("one", PROMPT, SamplingParams(max_tokens=12, n=3, seed=1))
    choices = [tokens(outputs) for outputs in run(engine).values()]
    assert drawn[0] in choices
    assert len(set(map(tuple, choices))) == 3


def test_no_stop_token_is_drawn_unless_it_is_wanted() -> None:
    """A sequence runs to max_tokens, or to the tokens after which the settings let it stop."""
    engine = make_engine()
    engine.add("long", PROMPT, SamplingParams(max_tokens=300, stop_token_ids=(8, 9)))
    long = run(engine)["long"]
    assert long[-1].finish_reason is FinishReason.LENGTH
    assert {EOS, 8, 9}.isdisjoint(tokens(long))

    engine = make_engine(MockConfig(output_tokens=3))
    engine.add("stops", PROMPT, SamplingParams(max_tokens=300))
    engine.add("later", PROMPT, SamplingParams(max_tokens=300, min_tokens=6))
    engine.add("ignores", PROMPT, SamplingParams(max_tokens=10, ignore_eos=True))
    outputs = run(engine)
    assert {n: (len(tokens(o)), o[-1].finish_reason) for n, o in outputs.items()} == {
        "stops": (3, FinishReason.STOP),
        "later": (6, FinishReason.STOP),
        "ignores": (10, FinishReason.LENGTH),
    }


def test_bans_hold() -> None:
    """Only allowed tokens come, and no bad ones; a stop token where nothing else is allowed."""
    allowed = {"allowed_token_ids": (3, EOS, 5), "bad_token_ids": (3,)}
    assert set(generate(make_engine(), PROMPT, max_tokens=9, temperature=1.0, **allowed)) == {5}
    engine = make_engine()
    engine.add("stop", PROMPT, SamplingParams(max_tokens=9, allowed_token_ids=(EOS,)))
    assert run(engine)["stop"][-1].finish_reason is FinishReason.STOP


def test_logprobs_describe_what_is_drawn() -> None:
    """A greedy token has rank 1, the alternatives fall, and all probabilities add up to one."""
    engine = make_engine()
    engine.add("greedy", PROMPT, SamplingParams(max_tokens=3, temperature=0.0, logprobs=4))
    engine.add("scored", PROMPT, SamplingParams(max_tokens=1, prompt_logprobs=20))
    outputs = run(engine)
    for output in outputs["greedy"]:
        (one,) = output.logprobs
        assert (one.token_id, one.rank, one.top_token_ids[0]) == (
            *output.token_ids,
            1,
            one.token_id,
        )
        assert one.top_logprobs == tuple(sorted(one.top_logprobs, reverse=True))
    scores = [score for output in outputs["scored"] for score in output.prompt_logprobs]
    assert [score.token_id for score in scores] == PROMPT[1:]
    for score in scores:
        assert score.logprob == -math.log(score.rank * (score.rank + 1))
    total = sum(math.exp(-math.log(rank * (rank + 1))) for rank in range(1, VOCAB + 1))
    assert total == pytest.approx(1.0, abs=1 / VOCAB)


def test_beams_are_better_than_greedy() -> None:
    """A beam search ends with its best sequences, the likeliest first."""
    engine = make_engine()
    engine.add("beams", PROMPT, SamplingParams(max_tokens=6, beam_width=3, n=3, temperature=0.0))
    (output,) = run(engine)["beams"]
    # the likeliest token after each is the likeliest sequence where all distributions are alike
    assert list(output.token_ids) == generate(make_engine(), PROMPT, max_tokens=6)
    assert len(output.other_beams) == 2


@pytest.mark.parametrize(("min_tokens", "num_tokens"), [(0, 3), (5, 5)])
@pytest.mark.parametrize("include", [False, True])
def test_beams_stop_where_a_sequence_does(min_tokens: int, num_tokens: int, include: bool) -> None:
    """The chosen length and min_tokens hold in a beam search too; the stop token may be kept."""
    engine = make_engine(MockConfig(output_tokens=3))
    params = SamplingParams(
        max_tokens=9, beam_width=2, n=2, min_tokens=min_tokens, include_stop_token=include
    )
    engine.add("beams", PROMPT, params)
    (output,) = run(engine)["beams"]
    assert output.finish_reason is FinishReason.STOP
    for token_ids in (output.token_ids, *(beam.token_ids for beam in output.other_beams)):
        assert [token_id == EOS for token_id in token_ids] == [False] * num_tokens + [
            True
        ] * include


def test_a_step_takes_the_prompts_share_and_one_decode() -> None:
    """A prompt's time is spread over its tokens; decodes in one step share one token's time."""
    time = FakeTime()
    engine = make_engine(TIMES, time=time, max_batched_tokens=10)
    engine.add("a", PROMPT[:20], SamplingParams(max_tokens=5))
    engine.add("b", PROMPT[10:20], SamplingParams(max_tokens=3))
    outputs = run(engine)
    # both halves of a; nine tokens of b and then its last beside a's decodes; the decodes of both
    assert time.slept_s == pytest.approx([0.5, 0.5, 1.15, 0.35, 0.25, 0.25])
    assert outputs["a"][-1].prefill_s == pytest.approx(1.0)
    assert outputs["b"][-1].decode_s == pytest.approx(0.5)


def test_a_cached_prefix_takes_no_time() -> None:
    """What an earlier request computed is hit: the rest of the prompt alone costs its share."""
    time = FakeTime()
    engine = make_engine(TIMES, time=time)
    first = generate(engine, PROMPT, max_tokens=1)
    time.slept_s.clear()
    assert generate(engine, PROMPT, max_tokens=1) == first
    num_cached = len(PROMPT) // BLOCK * BLOCK
    assert time.slept_s == pytest.approx([(len(PROMPT) - num_cached) / len(PROMPT)])
    assert engine.stats().num_prefix_hit_tokens == num_cached


def test_without_times_nothing_sleeps() -> None:
    """Zero is no sleep of zero seconds, which would give the interpreter away."""
    time = FakeTime()
    generate(make_engine(time=time), PROMPT, max_tokens=5)
    assert time.slept_s == []


def test_blocks_are_announced_as_with_a_model() -> None:
    """A full block is stored under its prefix's name and removed when it is recycled."""
    engine = make_engine(num_blocks=8)
    generate(engine, PROMPT[:12], max_tokens=1)
    stored = engine.prefix_cache.events_since(0) or []
    assert [(event.kind, event.num_tokens) for event in stored] == [
        (BlockEventKind.STORED, BLOCK)
    ] * 3
    generate(engine, range(100, 128), max_tokens=1)
    later = engine.prefix_cache.events_since(len(stored)) or []
    removed = {event.block_hash for event in later if event.kind is BlockEventKind.REMOVED}
    assert removed <= {event.block_hash for event in stored}
    assert removed
