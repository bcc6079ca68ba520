"""Packs documents into rows of one length, in a process of its own, ahead of the training.

A batch depends only on the seed and its number, so a resumed run sees what it would have seen.
"""

import os
import random
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.corpus.documents import Documents
from training.tokenizer import END, ROLES, text_of

CONTEXT_WEIGHT = 0.1
PICKED = 0.4


@dataclass(frozen=True)
class Batch:
    """Rows of packed documents, with the positions where loss is taken and their weights."""

    tokens: Tensor
    documents: Tensor
    picks: Tensor
    targets: Tensor
    weights: Tensor


class Packer:
    """Makes batches from a tokenizer and a seed."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.end = tokenizer.token_to_id(END)
        self.assistant = tokenizer.token_to_id(ROLES["assistant"])

    def batch(self, number: int, rows: int, length: int) -> Batch:
        """Batch `number`: `rows` rows of `length` tokens, long documents where they fit."""
        source = Documents(f"{self.seed}-{number}", long=length > 512)
        shelves: list[list[list[int]]] = [[] for _ in range(rows)]
        space = [length + 1] * rows
        misses = 0
        while misses < 24:
            ids = self.tokenizer.encode(text_of(source.document())).ids
            fitting = [row for row in range(rows) if space[row] >= len(ids)]
            if not fitting:
                misses += 1
                continue
            row = min(fitting, key=space.__getitem__) if misses else fitting[0]
            shelves[row].append(ids)
            space[row] -= len(ids)
        return self._batch(shelves, length, random.Random(f"{self.seed}-{number}-picks"))

    def _batch(self, shelves: list[list[list[int]]], length: int, rng: random.Random) -> Batch:
        tokens = torch.zeros(len(shelves), length + 1, dtype=torch.long)
        marks = torch.full((len(shelves), length + 1), -1)
        answers: list[int] = []
        context: list[int] = []
        for row, documents in enumerate(shelves):
            at = 0
            for mark, ids in enumerate(documents):
                tokens[row, at : at + len(ids)] = torch.tensor(ids)
                marks[row, at : at + len(ids)] = mark
                talking = False
                for offset in range(len(ids) - 1):
                    talking = (talking or ids[offset] == self.assistant) and ids[offset] != self.end
                    (answers if talking else context).append(row * length + at + offset)
                at += len(ids)
        return self._picked(tokens, marks, answers, context, rng)

    def _picked(
        self,
        tokens: Tensor,
        marks: Tensor,
        answers: list[int],
        context: list[int],
        rng: random.Random,
    ) -> Batch:
        inputs = tokens[:, :-1].contiguous()
        count = int(inputs.numel() * PICKED)
        rng.shuffle(answers)
        rng.shuffle(context)
        chosen = (answers + context + [0] * count)[:count]
        weights = torch.zeros(count)
        weights[: len(answers)] = 1.0
        weights[len(answers) : len(answers) + len(context)] = CONTEXT_WEIGHT
        picks = torch.tensor(chosen)
        return Batch(
            inputs, marks[:, :-1].contiguous(), picks, tokens[:, 1:].flatten()[picks], weights
        )


class Stream:
    """Every `stride`-th batch from `start`, made ahead by one worker process."""

    def __init__(
        self, tokenizer: Tokenizer, seed: int, start: int, stride: int, rows: int, length: int
    ) -> None:
        context = get_context("spawn")
        self.queue: Queue[tuple[object, ...]] = context.Queue(maxsize=6)
        arguments = (self.queue, tokenizer.to_str(), seed, start, stride, rows, length)
        self.worker = context.Process(target=_work, args=arguments, daemon=True)
        self.worker.start()

    def next(self) -> Batch:
        """The next batch."""
        return Batch(*(torch.from_numpy(array) for array in self.queue.get()))

    def close(self) -> None:
        """Ends the worker."""
        self.worker.kill()
        self.worker.join()


def _work(
    queue: "Queue[tuple[object, ...]]",
    tokenizer: str,
    seed: int,
    start: int,
    stride: int,
    rows: int,
    length: int,
) -> None:
    os.nice(5)
    torch.set_num_threads(1)
    packer = Packer(Tokenizer.from_str(tokenizer), seed)
    number = start
    while True:
        batch = packer.batch(number, rows, length)
        queue.put(tuple(tensor.numpy() for tensor in vars(batch).values()))
        number += stride
