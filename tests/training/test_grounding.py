"""The wording that the bundled model was trained on: a contract with its weights."""

from pathlib import Path

from services.tokenizer.checkpoint import Checkpoint
from services.tokenizer.grounding import Grounding
from training.grounding import GROUNDING, INSTRUCTION, REFUSAL, render

FOLDER = Path(__file__).parents[2] / "models" / "infermesh-tiny"


def test_the_wording_is_the_one_that_the_model_was_trained_on() -> None:
    """Changing a word needs a new model: training renders its documents through it."""
    assert INSTRUCTION == (
        "Answer from the passages and cite them as [n]. "
        "If they do not answer the question, say: The passages do not say."
    )
    assert REFUSAL in INSTRUCTION
    assert render(["Red.", "Blue."]) == f"{INSTRUCTION}\n\n[1] Red.\n[2] Blue."
    assert render([]) == f"{INSTRUCTION}\n\n"


def test_the_callers_system_message_comes_first() -> None:
    """What the caller wrote stands before the instruction, an empty one leaves no gap."""
    assert render(["x"], " Be brief. ") == f"Be brief.\n\n{INSTRUCTION}\n\n[1] x"
    assert render(["x"], "  ") == render(["x"])


def test_the_model_is_served_with_it() -> None:
    """Its folder says so, as an export writes it."""
    assert Grounding.of(Checkpoint.read(str(FOLDER))) == GROUNDING
    assert (FOLDER / "grounding.json").read_text() == GROUNDING.text()
