"""The grounding texts that are compared."""

from dataclasses import dataclass

from services.tokenizer.chat import Message
from services.tokenizer.grounding import Grounding, numbered
from training.grounding import GROUNDING, REFUSAL

PASSAGE_SAYS = "According to passage ["
BLOCK = "Passages:\n{passages}\n\nQuestion: {question}"
QUESTION_FIRST = "Question: {question}\n\nPassages:\n{passages}\n\n"
ANSWER = "Answer from the passages."
CITE = "Answer from the passages and cite them as [n]."
REFUSE = f"Answer from the passages. If they do not answer the question, say: {REFUSAL}"

_EXAMPLE = numbered(
    [
        "The mill closed in 1931 and is a bakery today.",
        "The ferry to Holm leaves at nine from the north pier.",
    ]
)
_EXAMPLE_TURNS = (
    Message("user", f"Passages:\n{_EXAMPLE}\n\nQuestion: Where does the ferry leave from?"),
    Message("assistant", "The ferry leaves from the north pier [2]."),
)
_REFUSAL_TURNS = (
    Message("user", f"Passages:\n{_EXAMPLE}\n\nQuestion: Who built the mill?"),
    Message("assistant", REFUSAL),
)


@dataclass(frozen=True, slots=True)
class Wording:
    """A grounding text, and turns of an example before the question."""

    grounding: Grounding
    example: tuple[Message, ...] = ()


def _block(instruction: str, start: str = "") -> Wording:
    return Wording(Grounding(user=f"{BLOCK}\n{instruction}", answer_start=start))


def _question_first(instruction: str, start: str = "") -> Wording:
    return Wording(Grounding(user=QUESTION_FIRST + instruction, answer_start=start))


WORDINGS = {
    "infermesh-tiny's own": Wording(GROUNDING),
    "system message": Wording(Grounding(system=f"{CITE}\n\n{{passages}}")),
    "system message, [": Wording(Grounding(system=f"{CITE}\n\n{{passages}}", answer_start="[")),
    "user message": _block(ANSWER),
    "user message, cite": _block(CITE),
    "user message, cite, [": _block(CITE, "["),
    "user message, refuse": _block(REFUSE),
    "user message, refuse, [": _block(REFUSE, "["),
    "user message, according to": _block(ANSWER, PASSAGE_SAYS),
    "user message, refuse, according to": _block(REFUSE, PASSAGE_SAYS),
    "an example": Wording(Grounding(system=CITE, user=BLOCK), _EXAMPLE_TURNS),
    "an example and a refusal": Wording(
        Grounding(system=REFUSE, user=BLOCK), _EXAMPLE_TURNS + _REFUSAL_TURNS
    ),
    "question first, [": _question_first("Answer the question from the passages.", "["),
    "question first, cite, [": _question_first(CITE, "["),
    "question first, refuse, [": _question_first(REFUSE, "["),
    "question first, quote, [": _question_first("Quote the sentence that answers it.", "["),
    "question first, according to": _question_first(
        "Answer the question from the passages.", PASSAGE_SAYS
    ),
    "question first, quote, according to": _question_first(
        "Quote the sentence that answers the question.", PASSAGE_SAYS
    ),
}
