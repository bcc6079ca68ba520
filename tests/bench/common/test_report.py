"""Tables from rows."""

from typing import Any

import pytest

from bench.common.figures import Figures
from bench.common.report import BEGIN, END, HEADINGS, Row, markdown, placed, text

ABSENT = {"small": {"peer": "does not install"}}


def row(**changes: Any) -> Row:
    """Return a row of one request with two tokens in half a second."""
    fields: dict[str, Any] = {
        "shape": "small",
        "concurrency": 1,
        "subject": "infermesh",
        "figures": Figures.of(0.0, [[0.25, 0.5]]),
        "ours_is": 1.0,
        "floor_share": 0.815,
        "startup_s": 2.0,
        "rss_bytes": 2**29,
        "peak_rss_bytes": 2**30,
    }
    return Row(**{**fields, **changes})


def test_cells_stand_under_their_headings() -> None:
    """A row has a text for each heading, in its unit."""
    cells = dict(zip(HEADINGS, row().cells(), strict=True))
    assert cells["tokens/s"] == "4.0"
    assert cells["first token p50 / p99, ms"] == "250 / 250"
    assert cells["per token p50 / p99, ms"] == "250.0 / 250.0"
    assert cells["of the floor"] in ("81%", "82%")
    assert cells["peak, GiB"] == "1.00"


def test_what_is_not_known_is_left_empty() -> None:
    """Without a run of ours or beyond one request there is no ratio and no share of the floor."""
    cells = dict(zip(HEADINGS, row(ours_is=None, floor_share=None).cells(), strict=True))
    assert cells["ours is"] == ""
    assert cells["of the floor"] == ""


def test_json_fields_are_flat() -> None:
    """A row's figures stand beside what they belong to."""
    fields = row().fields()
    assert fields["subject"] == "infermesh"
    assert fields["tokens_per_s"] == 4.0
    assert "figures" not in fields


def test_the_text_names_who_is_absent_and_why() -> None:
    """An engine that could not be measured is listed with its reason below the table."""
    lines = text([row()], ABSENT).splitlines()
    assert lines[1] == "small"
    assert lines[-1] == "peer was not measured: does not install"


def test_a_shape_of_which_nothing_was_measured_still_gives_reasons() -> None:
    """Reasons are shown where there is not one row."""
    assert "peer was not measured" in text([], ABSENT)


def test_markdown_says_where_the_figures_come_from() -> None:
    """The section begins with command, commit and machine and has a table per shape."""
    origin = {
        "machine": {"cores": 2, "processor": "Processor"},
        "command": "python -m bench.engine",
        "commit": "abc1234",
        "time": "2026-01-02T03:04:05+00:00",
        "read_bytes_per_s": {"small": 40e9},
    }
    section = markdown([row(), row(shape="large")], ABSENT, origin)
    assert section.startswith(
        "`python -m bench.engine` at commit abc1234, 2026-01-02, on 2 cores of Processor."
    )
    assert "### small, memory read at 40.0 GB/s" in section
    assert "### large\n" in section
    assert "- peer was not measured: does not install" in section


def test_the_section_replaces_what_stood_between_its_markers() -> None:
    """Text around the markers stays, and placing twice changes nothing more."""
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = placed(document, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert placed(once, "new") == once


def test_a_document_without_markers_is_refused() -> None:
    """Nothing is written where it has no place."""
    with pytest.raises(ValueError, match="has no"):
        placed("text", "new")
