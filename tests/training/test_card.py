"""The model card speaks of the weights beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.card import table
from training.evaluate import Model, Verdict, held_out, summary

FOLDER = Path(__file__).parents[2] / "models" / "infermesh-tiny"
SAMPLE = 60


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """figures.json."""
    loaded: dict[str, Any] = json.loads((FOLDER / "figures.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    """Replies of the shipped weights to fresh held-out questions."""
    return Model(FOLDER).judge(held_out(2026, SAMPLE))


def test_card_shows_the_recorded_figures(record: dict[str, Any]) -> None:
    """The card's table is the one made from figures.json, and it names the command."""
    card = (FOLDER / "README.md").read_text()
    assert table(record["figures"]) in card
    assert record["run"]["command"] in card


def test_figures_are_those_of_the_weights(record: dict[str, Any], verdicts: list[Verdict]) -> None:
    """On fresh questions every figure is within four standard errors of the recorded one."""
    recorded = record["figures"]["held_out_names"]
    found = summary(verdicts)
    answerable = int(found["answerable"])
    sizes = {
        "right_span": answerable,
        "right_span_four_passages": sum(
            each.answerable and each.question.passages == 4 for each in verdicts
        ),
        "right_citation": answerable,
        "unanswerable_seen": SAMPLE - answerable,
        "false_refusals": answerable,
    }
    for name, size in sizes.items():
        assert size > 0, name
        share = min(max(recorded[name], 0.02), 0.98)
        tolerance = 4 * (share * (1 - share) / size) ** 0.5 + 1 / size
        assert abs(found[name] - recorded[name]) <= tolerance, (name, found, recorded)


def test_files_are_small() -> None:
    """The whole folder stays under 20 MB."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6
