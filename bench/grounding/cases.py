"""The questions of the bench: each with passages as the retriever returns them.

All passages of `training/free_questions.jsonl` are one collection; the retriever's encoder ranks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from services.retriever.encoder import load
from training.evaluate import FREE_QUESTIONS, bounded

NUM_PASSAGES = (1, 3)


class Entry(NamedTuple):
    """A question as it was written; `answer` is empty where its passages do not have it."""

    question: str
    answer: str
    passages: list[str]


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt: a question and its passages, best first.

    `number` is the question's. `source` is the passage with the answer, from 1, or 0 where none
    has it. `is_retrieved` tells that the retriever returns exactly these.
    """

    number: int
    question: str
    answer: str
    passages: tuple[str, ...]
    source: int
    is_retrieved: bool


def cases() -> list[Case]:
    """Return each question with the passage that answers it and the nearest others, and without.

    The retriever's own choice is among them: where the right passage is among its best, and for
    the questions that no passage answers.
    """
    lines = FREE_QUESTIONS.read_text().splitlines()
    entries = [Entry(e["question"], e["answer"], e["passages"]) for e in map(json.loads, lines)]
    pool = [text for entry in entries for text in entry.passages]
    found: list[Case] = []
    for number, (entry, ranked) in enumerate(zip(entries, _ranked(entries, pool), strict=True)):
        answer = entry.answer
        others = [text for text in ranked if not (answer and bounded(answer, text))]
        for count in NUM_PASSAGES:
            if answer:
                right = next(text for text in entry.passages if bounded(answer, text))
                nearest = {right, *others[: count - 1]}
                chosen = tuple(text for text in ranked if text in nearest)
                is_retrieved = chosen == tuple(ranked[:count])
                source = chosen.index(right) + 1
                found.append(Case(number, entry.question, answer, chosen, source, is_retrieved))
            absent = tuple(others[:count])
            found.append(Case(number, entry.question, answer, absent, 0, not answer))
    return found


def _ranked(entries: Sequence[Entry], pool: Sequence[str]) -> list[list[str]]:
    """Return all passages for each question, nearest first."""
    # it sets the threads of the whole process
    encoder = load("", torch.get_num_threads())
    texts = [*pool, *(entry.question for entry in entries)]
    vectors = np.concatenate([encoder.encode(encoder.tokenizer.encode([text])) for text in texts])
    scores = vectors[len(pool) :] @ vectors[: len(pool)].T
    return [[pool[i] for i in np.argsort(-row, kind="stable")] for row in scores]
