"""What the bench and its workers say to each other: one JSON object per line, question and answer.

`prepare` writes a checkpoint in the engine's own form, `load` readies the engine, `run` serves
prompts. Knows nothing but the standard library, for it runs in every peer's environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

Prompts = Sequence[Sequence[int]]
MAX_BATCHED_TOKENS = 512
"""The tokens that one step may compute, for every engine that can be told."""


@dataclass(frozen=True)
class Setup:
    """What an engine is to load: `model` is the folder that `prepare` filled, or the checkpoint."""

    model: Path
    options: Mapping[str, str]
    threads: int
    max_num_seqs: int
    max_num_tokens: int
    """The most tokens, prompt and output, of one sequence."""

    @property
    def dtype(self) -> str:
        """The dtype of weights and activations, in torch's name."""
        return self.options.get("dtype", "bfloat16")


@dataclass
class Timeline:
    """When each token of each request was there, in seconds of `time.perf_counter`.

    That is CLOCK_MONOTONIC on Linux, so moments of several processes can be subtracted.
    """

    start_s: float
    times_s: list[list[float]]
    token_ids: list[list[int]] = field(default_factory=list)

    @classmethod
    def begin(cls, num_requests: int) -> "Timeline":
        """Start the clock; call it when the prompts are about to be handed over."""
        empty = range(num_requests)
        return cls(time.perf_counter(), [[] for _ in empty], [[] for _ in empty])

    def note(self, index: int, token_ids: Sequence[int]) -> None:
        """Note new tokens of request `index` as there now."""
        self.times_s[index] += [time.perf_counter()] * len(token_ids)
        self.token_ids[index] += token_ids


Run = Callable[[Prompts, int], Timeline]
Load = Callable[[Setup], Run]
Prepare = Callable[[Path, Path, Mapping[str, str]], None]


def serve(load: Load, packages: Sequence[str], prepare: Prepare | None = None) -> None:
    """Answer on the real stdout until stdin ends; what libraries print goes to stderr.

    A question that raises is answered with `error`; `load` answers with the packages' versions.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker(load, packages, prepare)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        _write(answers, answer)


class _Worker:
    def __init__(self, load: Load, packages: Sequence[str], prepare: Prepare | None) -> None:
        self._load = load
        self._packages = packages
        self._prepare = prepare
        self._run: Run | None = None

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one question; raises whatever the engine raises."""
        if question["do"] == "prepare":
            self._do_prepare(question)
            return {}
        if question["do"] == "load":
            self._run = self._load(
                Setup(
                    Path(question["model"]),
                    question["options"],
                    question["threads"],
                    question["max_num_seqs"],
                    question["max_num_tokens"],
                )
            )
            return {"versions": {name: metadata.version(name) for name in self._packages}}
        if self._run is None:
            raise RuntimeError("nothing is loaded")
        return asdict(self._run(question["prompts"], question["max_tokens"]))

    def _do_prepare(self, question: Mapping[str, Any]) -> None:
        if self._prepare is None:
            raise RuntimeError("this engine takes checkpoints as they are")
        self._prepare(Path(question["checkpoint"]), Path(question["folder"]), question["options"])


def _write(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
