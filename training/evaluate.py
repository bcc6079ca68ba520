"""Asks an exported model held-out questions and counts what it gets right.

Decoding is greedy and in batches, through transformers, on the weights as they are shipped.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.corpus.documents import Document, Documents, Exchange
from training.grounding import REFUSAL, render

FREE_QUESTIONS = Path(__file__).with_name("free_questions.jsonl")


@dataclass(frozen=True)
class Question:
    """One question to ask: the system text, the exchange expected, and how many passages."""

    system: str
    exchange: Exchange
    passages: int


@dataclass(frozen=True)
class Verdict:
    """A question with the reply it got."""

    question: Question
    reply: str

    @property
    def answerable(self) -> bool:
        """True when the passages hold the answer."""
        return bool(self.question.exchange.span)

    @property
    def span(self) -> bool:
        """True when the reply holds the right span, letter case aside, or is the one expected.

        They differ where the passage says "every Monday" and the reply "on Mondays".
        """
        expected = self.question.exchange
        bare, right = (re.sub(r"\s*\[\d+\]", "", text) for text in (self.reply, expected.reply))
        return self.answerable and (bounded(expected.span, bare) or bare == right)

    @property
    def citation(self) -> bool:
        """True when the reply cites the right passage and no other."""
        return set(re.findall(r"\[(\d+)\]", self.reply)) == {str(self.question.exchange.source)}

    @property
    def refused(self) -> bool:
        """True when the reply says that the passages do not say."""
        return self.reply == REFUSAL


def bounded(span: str, text: str) -> bool:
    """Return whether `span` occurs in `text` and does not end inside a longer word or number."""
    pattern = rf"(?<![\w]){re.escape(span.lower())}(?![\w]|[.,]\d)"
    return re.search(pattern, text.lower()) is not None


class Model:
    """An exported model that replies."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    def reply(
        self, chats: Sequence[list[dict[str, str]]], limit: int = 64, batch: int = 50
    ) -> list[str]:
        """Greedy replies to conversations, in their order."""
        prompts = [
            str(
                self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            )
            for chat in chats
        ]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        replies = [""] * len(prompts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            texts = self._batch([prompts[index] for index in chosen], limit)
            for index, text in zip(chosen, texts, strict=True):
                replies[index] = text
        return replies

    @torch.inference_mode()
    def _batch(self, prompts: list[str], limit: int) -> list[str]:
        inputs = self.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        made = self.model.generate(  # type: ignore[misc]
            **inputs, max_new_tokens=limit, do_sample=False
        )
        width = inputs["input_ids"].shape[1]
        texts = self.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        return [str(text).strip() for text in texts]

    def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """Return the model's replies to `questions`, each with its question."""
        chats = [
            [
                {"role": "system", "content": each.system},
                {"role": "user", "content": each.exchange.question},
            ]
            for each in questions
        ]
        return [
            Verdict(question, reply)
            for question, reply in zip(questions, self.reply(chats), strict=True)
        ]


def held_out(seed: int, count: int, templates: bool = False) -> list[Question]:
    """`count` fresh questions with names training never uses, one to a document.

    With `templates`, every question is also of an attribute that training never states or asks.
    """
    source = Documents(f"held-out-{seed}", held_out_names=True, held_out_templates=templates)
    questions: list[Question] = []
    while len(questions) < count:
        passages = 1 + len(questions) % 4
        document = source.grounded(passages, 1, refusals=0.0 if templates else 0.2)
        questions += _questions(document)[: count - len(questions)]
    return questions


def _questions(document: Document) -> list[Question]:
    judged = [each for each in document.exchanges if each.span or each.reply == REFUSAL]
    return [Question(document.system, each, len(document.passages)) for each in judged[:1]]


def free(path: Path = FREE_QUESTIONS) -> list[Question]:
    """Return the questions written by hand, if the file is there."""
    if not path.exists():
        return []
    questions = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        passages, span = entry["passages"], entry["answer"]
        source = next((n for n, text in enumerate(passages, 1) if bounded(span, text)), 0)
        exchange = Exchange(entry["question"], "", span, source if span else 0)
        questions.append(Question(render(passages), exchange, len(passages)))
    return questions


def share(flags: Sequence[bool]) -> float:
    """Return the share of true flags, 0 when there are none."""
    return round(sum(flags) / len(flags), 4) if flags else 0.0


def summary(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the figures of one set of verdicts."""
    answerable = [each for each in verdicts if each.answerable]
    absent = [each for each in verdicts if not each.answerable]
    figures = {
        "right_span": share([each.span for each in answerable]),
        "right_span_four_passages": share(
            [each.span for each in answerable if each.question.passages == 4]
        ),
        "right_citation": share([each.citation for each in answerable]),
        "unanswerable_seen": share([each.refused for each in absent]),
        "false_refusals": share([each.refused for each in answerable]),
    }
    counts = {"questions": len(verdicts), "answerable": len(answerable)}
    return figures | counts


def figures(folder: Path, seed: int = 7, count: int = 1000) -> dict[str, dict[str, float]]:
    """Every figure of the model in `folder`: unseen names, unseen templates, free questions."""
    model = Model(folder)
    sets = {
        "held_out_names": held_out(seed, count),
        "held_out_templates": held_out(seed, max(count // 3, 20), templates=True),
        "free_questions": free(),
    }
    return {name: summary(model.judge(questions)) for name, questions in sets.items() if questions}
