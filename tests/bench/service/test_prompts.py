"""Prompts of the service's benchmark: none helps another."""

import json

from bench.service.prompts import NUM_WORDS, Asked, Prompts, vocabulary

ASKED = Asked("tiny", 24)


def test_no_two_prompts_begin_alike() -> None:
    """The first three words are a number, the fastest digit first."""
    num_words = len(vocabulary())
    starts = set()
    for first in (0, num_words - 2, num_words**2 - 2):
        prompts = Prompts(ASKED, first)
        starts |= {tuple(prompts.text().split()[:3]) for _ in range(4)}
    assert len(starts) == 12
    assert len({start[0] for start in starts}) > 4


def test_a_request_has_its_words_and_is_the_same_each_time() -> None:
    """A run can be repeated."""
    body = json.loads(Prompts(ASKED, first=7).body())
    assert body == json.loads(Prompts(ASKED, first=7).body())
    assert len(body["messages"][0]["content"].split()) == NUM_WORDS
    assert (body["model"], body["max_tokens"], body["ignore_eos"]) == ASKED
