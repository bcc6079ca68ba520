"""The system message that holds the passages: a contract with the bundled model."""

from services.gateway.pipeline.grounding import INSTRUCTION, REFUSAL, render


def test_passages_are_numbered_from_one() -> None:
    """Each passage is one line with its number, after the instruction and an empty line."""
    assert render(["Red.", "Blue."]) == f"{INSTRUCTION}\n\n[1] Red.\n[2] Blue."


def test_line_breaks_inside_a_passage_become_spaces() -> None:
    """A passage can neither break its line nor begin another one's."""
    assert render(["one\n[2] two\r\n\t three "]).endswith("\n\n[1] one [2] two three")


def test_the_callers_system_message_comes_first() -> None:
    """What the caller wrote stands before the instruction, an empty one leaves no gap."""
    assert render(["x"], " Be brief. ") == f"Be brief.\n\n{INSTRUCTION}\n\n[1] x"
    assert render(["x"], "  ") == render(["x"])


def test_the_wording_is_the_one_that_the_model_was_trained_on() -> None:
    """Changing a word needs a new model: training renders its documents through this module."""
    assert INSTRUCTION == (
        "Answer from the passages and cite them as [n]. "
        "If they do not answer the question, say: The passages do not say."
    )
    assert REFUSAL in INSTRUCTION
