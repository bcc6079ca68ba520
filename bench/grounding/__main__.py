"""Grounding texts compared on the free questions, by our engine in this process.

    python -m bench.grounding [--model smollm2-135m-instruct] [--wordings NAME ...]

Each of the 50 questions of training/free_questions.jsonl, with 1 and with 3 passages as the
retriever ranks them: with the passage that answers it, and without. Sampled as served: by the
model's generation config and a seed for each question, without its repetition penalty; the model's
own wording greedy as well. The wording and the number of passages are chosen together: by the
questions that end well as served, of those with even numbers; then by right answers of any number.
Prints a table; writes bench/results/grounding.json after each wording. Other models stay there,
and so do those of the same commit: a run that was interrupted goes on.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.machine import describe
from bench.grounding.cases import NUM_PASSAGES, Case, cases
from bench.grounding.figures import Reply, figures
from bench.grounding.wordings import WORDINGS, Wording
from cli.models.catalogue import CHAT_MODEL
from cli.models.locate import locate
from cli.models.store import Store, default_folder
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine
from services.generator.model.checkpoint.generation_config import GenerationConfig
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.codec import Codec
from services.tokenizer.gguf.checkpoint import read_checkpoint
from services.tokenizer.grounding import Grounding

RESULT = Path(__file__).parents[1] / "results" / "grounding.json"
ANSWER_TOKENS = 64
KV_CACHE_BYTES, MAX_NUM_SEQS = 2**30, 64
OWN = "own"


class Model:
    """A model in this process: passages and questions in, texts out."""

    def __init__(self, path: Path) -> None:
        self.checkpoint = read_checkpoint(str(path))
        self.codec = Codec(self.checkpoint)
        self.chat = ChatEncoder(self.checkpoint)
        config = EngineConfig(path, kv_cache_bytes=KV_CACHE_BYTES, max_num_seqs=MAX_NUM_SEQS)
        self.engine: Engine = load_engine(config)
        defaults = GenerationConfig.read(path if path.is_dir() else path.parent)
        self.sampling: dict[str, Any] = {
            "temperature": defaults.temperature,
            "top_k": defaults.top_k,
            "top_p": defaults.top_p,
            "min_p": defaults.min_p,
        }

    def replies(
        self, wording: Wording, asked: Sequence[Case], sampling: dict[str, Any]
    ) -> list[Reply]:
        """Return the replies to all cases, which run together."""
        starts = []
        for number, case in enumerate(asked):
            grounded = wording.grounding.ground([Message("user", case.question)], case.passages)
            *before, question = grounded.messages
            prompt = self.chat.prompt([*before, *wording.example, question], grounded.answer_start)
            starts.append(prompt.answer_start)
            params = SamplingParams(max_tokens=ANSWER_TOKENS, seed=case.number, **sampling)
            self.engine.add(str(number), prompt.ids, params)
        ids: dict[str, list[int]] = {str(number): [] for number in range(len(asked))}
        while self.engine.has_work:
            for output in self.engine.step():
                ids[output.request_id] += output.token_ids
        texts = self.codec.decode(list(ids.values()), skip_special_tokens=True)
        return [
            Reply(case, (start + text).strip())
            for case, start, text in zip(asked, starts, texts, strict=True)
        ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=CHAT_MODEL)
    parser.add_argument("--wordings", nargs="*", default=[*WORDINGS])
    options = parser.parse_args()
    model = Model(locate(options.model, Store(default_folder(os.environ))).path)
    asked = cases()
    own = Wording(Grounding.of(model.checkpoint))
    head = {**describe(), "sampling": model.sampling, "own": _wording(own)}
    rows = _measured(model.checkpoint.id, head)
    for name, wording, sampling in (
        (OWN, own, model.sampling),
        (f"{OWN}, greedy", own, {"temperature": 0.0}),
        *((name, WORDINGS[name], model.sampling) for name in options.wordings),
    ):
        if name not in rows:
            started_s = time.perf_counter()
            rows[name] = figures(model.replies(wording, asked, sampling))
            _show(name, rows[name], time.perf_counter() - started_s)
            _write(model.checkpoint.id, {**head, **_best(rows), "wordings": rows})
    print(f"{_best(rows)}\nwritten to {RESULT}")


def _known() -> dict[str, Any]:
    return dict(json.loads(RESULT.read_text())) if RESULT.exists() else {}


def _measured(model_id: str, head: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that a run of this commit has left."""
    earlier = _known().get(model_id, {})
    return dict(earlier["wordings"]) if earlier.get("commit") == head["commit"] else {}


def _write(model_id: str, entry: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(_known() | {model_id: entry}, indent=2) + "\n")


def _best(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the wording and the number of passages that the rule chooses."""

    def score(choice: tuple[str, str]) -> tuple[int, int]:
        name, count = choice
        counts = rows[name]["chosen on"]
        return counts[count]["served"], sum(each["right"] for each in counts.values())

    names = [name for name in rows if name in WORDINGS]
    choices = [(name, f"{count} passages") for name in names for count in NUM_PASSAGES]
    if not choices:
        return {}
    name, count = max(choices, key=score)
    return {"best": {"wording": name, "passages": count}}


def _wording(wording: Wording) -> dict[str, str]:
    return dict(json.loads(wording.grounding.text()))


def _show(name: str, row: dict[str, Any], seconds: float) -> None:
    cells = [
        f"{selection} {count[0]}: " + "/".join(str(v) for v in counts.values())
        for selection, by_count in row.items()
        for count, counts in by_count.items()
    ]
    print(f"{name:<36} {seconds:3.0f} s  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
