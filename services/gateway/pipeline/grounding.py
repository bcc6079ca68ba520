"""Turns retrieved passages into a prompt.

The wording is a contract with the bundled model: `training/` renders its documents through this
module, so that a model sees in service exactly what it saw in training.
"""

from collections.abc import Sequence

INSTRUCTION = (
    "Answer from the passages and cite them as [n]. "
    "If they do not answer the question, say: The passages do not say."
)
REFUSAL = "The passages do not say."


def render(passages: Sequence[str], system: str = "") -> str:
    """Return the system message that grounds an answer: `system`, then passages numbered from 1.

    Line breaks inside a passage become spaces, so that each passage stays one line.
    """
    lines = [f"[{n}] {' '.join(text.split())}" for n, text in enumerate(passages, start=1)]
    head = f"{system.strip()}\n\n{INSTRUCTION}" if system.strip() else INSTRUCTION
    return head + "\n\n" + "\n".join(lines)
