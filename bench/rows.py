"""What rows of 8 bits cost the chat model: perplexity, and short factual questions right.

    python -m bench.rows [--model FILE.gguf] [--tokens 24576]

The text is Python's own documentation (pydoc_data/topics.py); answers are greedy. Prints and writes
bench/results/rows.json.
"""

import argparse
import json
import math
import os
import pydoc_data.topics
import re
from collections.abc import Sequence
from pathlib import Path

from bench.common.machine import describe
from cli.models.catalogue import CHAT_MODEL
from cli.models.locate import locate
from cli.models.store import Store, default_folder
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.codec import Codec
from services.tokenizer.gguf.checkpoint import read_checkpoint

QUESTIONS = Path(__file__).parent / "factual_questions.jsonl"
RESULT = Path(__file__).parent / "results" / "rows.json"
DOCUMENT_TOKENS = 1024
ANSWER_TOKENS = 48


def perplexity(engine: Engine, ids: Sequence[int]) -> float:
    """Return the perplexity of a text that is cut into documents."""
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    for begin in range(0, len(ids), DOCUMENT_TOKENS):
        engine.add(str(begin), ids[begin : begin + DOCUMENT_TOKENS], params)
    scores: list[float] = []
    while engine.has_work:
        for output in engine.step():
            scores += [one.logprob for one in output.prompt_logprobs or ()]
    return math.exp(-sum(scores) / len(scores))


def num_right(engine: Engine, chat: ChatEncoder, codec: Codec) -> int:
    """Return how many questions are answered with a word that is accepted."""
    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    params = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0)
    for number, each in enumerate(questions):
        prompt = chat.encode([Message("user", each["question"])], add_generation_prompt=True)
        engine.add(str(number), prompt.ids, params)
    answers: dict[str, list[int]] = {str(number): [] for number in range(len(questions))}
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.token_ids
    texts = codec.decode(list(answers.values()), skip_special_tokens=True)
    return sum(
        any(re.search(rf"(?<!\w){re.escape(word)}", text.lower()) for word in each["answers"])
        for each, text in zip(questions, texts, strict=True)
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=CHAT_MODEL)
    parser.add_argument("--tokens", type=int, default=24 * DOCUMENT_TOKENS)
    options = parser.parse_args()
    model = locate(options.model, Store(default_folder(os.environ))).path
    checkpoint = read_checkpoint(str(model))
    codec, chat = Codec(checkpoint), ChatEncoder(checkpoint)
    topics = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics))
    ids = codec.encode([text], add_special_tokens=False)[0][: options.tokens]
    result = {**describe(), "model": checkpoint.id, "tokens": len(ids)}
    for name, exact in (("float32 rows", True), ("8-bit rows", False)):
        engine = load_engine(EngineConfig(model, exact=exact, kv_cache_bytes=2**29))
        scores = {"perplexity": perplexity(engine, ids), "right": num_right(engine, chat, codec)}
        result[name] = scores
        print(f"{name}: {scores}", flush=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
