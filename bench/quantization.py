"""What int8 costs the bundled model: its perplexity on held-out documents, and the loss.

    python -m bench.quantization [--model FOLDER] [--documents 200]

Documents with names that training never uses. All tokens count once, and those of the replies by
themselves. Prints a table and writes bench/results/quantization.json.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from bench.common.machine import describe
from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine
from training.corpus.documents import Documents
from training.tokenizer import END, ROLES, text_of, token_id

BUNDLED = Path(__file__).parents[1] / "models" / "infermesh-tiny"
RESULT = Path(__file__).parent / "results" / "quantization.json"


@dataclass(frozen=True)
class Perplexity:
    """Of all tokens but the first of each document, and of the replies' tokens alone."""

    overall: float
    replies: float


def held_out(model: Path, count: int, seed: int = 11) -> list[list[int]]:
    """Return the tokens of `count` documents with names unknown to training, cut to the context."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    context = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    source = Documents(f"quantization-{seed}", held_out_names=True)
    texts = (text_of(source.document()) for _ in range(count))
    return [tokenizer.encode(text).ids[: context - 1] for text in texts]


def perplexity(
    model: Path, quantization: str | None, documents: Sequence[Sequence[int]]
) -> Perplexity:
    """Score the documents with the engine, as its prompt log-probabilities."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    start, end = token_id(tokenizer, ROLES["assistant"]), token_id(tokenizer, END)
    engine = load_engine(EngineConfig(model, quantization=quantization, kv_cache_bytes=2**28))
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    for number, ids in enumerate(documents):
        engine.add(str(number), ids, params)
    overall: list[float] = []
    replies: list[float] = []
    while engine.has_work:
        for output in engine.step():
            if not output.prompt_logprobs:
                continue
            scores = [one.logprob for one in output.prompt_logprobs]
            inside = _in_reply(documents[int(output.request_id)], start, end)
            overall += scores
            replies += [one for one, is_reply in zip(scores, inside, strict=True) if is_reply]
    return Perplexity(*(math.exp(-sum(one) / len(one)) for one in (overall, replies)))


def _in_reply(ids: Sequence[int], start: int, end: int) -> list[bool]:
    """Tell for each token but the first whether it is the assistant's, its end included."""
    flags: list[bool] = []
    inside = False
    for token in ids:
        flags.append(inside)
        inside = token == start or (inside and token != end)
    return flags[1:]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--documents", type=int, default=200)
    options = parser.parse_args()
    documents = held_out(options.model, options.documents)
    plain, rounded = (perplexity(options.model, one, documents) for one in (None, "int8"))
    rows = {
        name: {"plain": before, "int8": after, "loss": after / before - 1}
        for name, before, after in (
            ("all tokens", plain.overall, rounded.overall),
            ("reply tokens", plain.replies, rounded.replies),
        )
    }
    print(f"{'perplexity of':<14} {'plain':>8} {'int8':>8} {'loss':>8}")
    for name, row in rows.items():
        print(f"{name:<14} {row['plain']:>8.4f} {row['int8']:>8.4f} {row['loss']:>8.2%}")
    RESULT.parent.mkdir(exist_ok=True)
    result = {**describe(), "documents": options.documents, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {RESULT}")


if __name__ == "__main__":
    main()
