"""The grounding text of infermesh-tiny: what it was trained on, and so what it is served with."""

from collections.abc import Sequence

from services.tokenizer.chat import Message
from services.tokenizer.grounding import Grounding

REFUSAL = "The passages do not say."
INSTRUCTION = (
    "Answer from the passages and cite them as [n]. "
    f"If they do not answer the question, say: {REFUSAL}"
)
GROUNDING = Grounding(system=f"{INSTRUCTION}\n\n{{passages}}")


def render(passages: Sequence[str], system: str = "") -> str:
    """Return the system message that holds the passages, after the text of a `system` message."""
    chat = GROUNDING.ground([Message("system", system), Message("user", "")], passages)
    return chat.messages[0].content
