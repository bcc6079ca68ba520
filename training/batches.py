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

from training.corpus.documents import Document, Documents
from training.grounding import REFUSAL
from training.tokenizer import END, ROLES, text_of, token_id

# Loss weights by what a token asks of the model. Most of a reply repeats its question; what has to
# be found - the span, the citation - is few tokens and gets more. So does a refusal, with care: it
# sets where answering ends, and at three times a fifth of what the passages answer was refused.
CONTEXT_WEIGHT = 0.1
REPLY_WEIGHT = 1.0
REFUSED_WEIGHT = 1.3
FOUND_WEIGHT = 3.0
CITED_WEIGHT = 6.0
PICKED = 0.45


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
        self.end = token_id(tokenizer, END)
        self.user = token_id(tokenizer, ROLES["user"])
        self.assistant = token_id(tokenizer, ROLES["assistant"])
        self.refusal = tokenizer.encode(f" {REFUSAL}").ids
        self.bracket = tokenizer.encode(" [").ids[-1]

    def batch(self, number: int, rows: int, length: int) -> Batch:
        """Batch `number`: `rows` rows of `length` tokens, each document cut to the room left."""
        source = Documents(f"{self.seed}-{number}", long=length > 512)
        shelves: list[list[list[int]]] = [[] for _ in range(rows)]
        space = [length + 1] * rows
        misses = 0
        while misses < 12:
            row = space.index(max(space))
            ids = self._ids(source.document(), space[row])
            if not ids:
                misses += 1
                continue
            shelves[row].append(ids)
            space[row] -= len(ids)
        return self._batch(shelves, length, random.Random(f"{self.seed}-{number}-picks"))

    def _ids(self, document: Document, room: int) -> list[int]:
        """Return a document's tokens without the exchanges that do not fit; none if none does."""
        ids: list[int] = self.tokenizer.encode(text_of(document)).ids
        while len(ids) > room and self.user in ids:
            last = len(ids) - 1 - ids[::-1].index(self.user)
            ids = ids[:last]
        return ids if self.user in ids else []

    def weigh(self, ids: list[int]) -> list[float]:
        """Return the weight of the loss at every token of a document, for predicting the next."""
        weights = [CONTEXT_WEIGHT] * (len(ids) - 1)
        asked = 0
        for at, token in enumerate(ids):
            if token == self.user:
                asked = at
            if token != self.assistant:
                continue
            end = ids.index(self.end, at)
            question, reply = set(ids[asked:at]), ids[at + 1 : end]
            grounded = self.bracket in reply
            plain = REFUSED_WEIGHT if reply == self.refusal else REPLY_WEIGHT
            for offset in range(at, end):
                if ids[offset] == self.bracket:
                    weights[offset] = CITED_WEIGHT
                elif grounded and ids[offset + 1] not in question:
                    weights[offset] = FOUND_WEIGHT
                else:
                    weights[offset] = plain
        return weights

    def _batch(self, shelves: list[list[list[int]]], length: int, rng: random.Random) -> Batch:
        tokens = torch.zeros(len(shelves), length + 1, dtype=torch.long)
        marks = torch.full((len(shelves), length + 1), -1)
        weighed: list[tuple[int, float]] = []
        for row, documents in enumerate(shelves):
            at = 0
            for mark, ids in enumerate(documents):
                tokens[row, at : at + len(ids)] = torch.tensor(ids)
                marks[row, at : at + len(ids)] = mark
                start = row * length + at
                weighed += [
                    (start + offset, weight) for offset, weight in enumerate(self.weigh(ids))
                ]
                at += len(ids)
        return self._picked(tokens, marks, weighed, rng)

    def _picked(
        self, tokens: Tensor, marks: Tensor, weighed: list[tuple[int, float]], rng: random.Random
    ) -> Batch:
        """Pick every token of the replies, and of the context as many as there is room for."""
        inputs = tokens[:, :-1].contiguous()
        count = int(inputs.numel() * PICKED)
        rng.shuffle(weighed)
        weighed.sort(key=lambda entry: -entry[1])
        chosen = (weighed + [(0, 0.0)] * count)[:count]
        picks = torch.tensor([position for position, _ in chosen])
        weights = torch.tensor([weight for _, weight in chosen])
        targets = tokens[:, 1:].flatten()[picks]
        return Batch(inputs, marks[:, :-1].contiguous(), picks, targets, weights)


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
        """Return the next batch."""
        return Batch(*(torch.from_numpy(array) for array in self.queue.get()))

    def close(self) -> None:
        """End the worker."""
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
