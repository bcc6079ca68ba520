"""Markdown: only markup goes; text and code stay by the letter."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.extraction.markdown import text_of_markdown

CODE = [
    "# x\ndef __init__(self):\n    return a * b * c  # <!-- kept -->\n\n    [x](y) &amp; \\* > z",
    "--- \ntitle: no\n---",
    "<div>\n  <script>x</script>\n</div>",
]


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("fence", ["```{}\n{}\n```", "~~~ {}\n{}\n~~~", "````{}\n{}\n````"])
def test_fenced_code_stays_by_the_letter(code: str, fence: str) -> None:
    """Whatever looks like markup in it; what follows is read again."""
    text = text_of_markdown(fence.format("python", code) + "\n\nThen *this*.")
    lines = [line.strip() for line in text.split("\n")]
    for line in filter(None, (line.strip() for line in code.split("\n"))):
        assert line in lines
    assert text.endswith("Then this.") and "python" not in text


def test_an_unclosed_fence_runs_to_the_end() -> None:
    """As CommonMark says."""
    assert text_of_markdown("```\n# a\n*b*") == "# a\n*b*"


def test_indented_code_and_code_spans_stay() -> None:
    """Nothing within is markup."""
    text = text_of_markdown("Call `__init__` or `a  *b*`.\n\n    # not a *heading*\n\nEnd.")
    assert text == "Call __init__ or a  *b*.\n\n# not a *heading*\n\nEnd."


def test_only_real_comments_go() -> None:
    """One in a code span begins nothing, and an arrow ends nothing."""
    text = text_of_markdown(
        "Write `<!--` to begin.\n\nA paragraph.\n\nAn arrow --> stays.\n\n"
        "Gone <!-- this --> is that.\n\n<!-- and\n\nthat -->\n\nEnd."
    )
    assert text == (
        "Write <!-- to begin.\n\nA paragraph.\n\nAn arrow --> stays.\n\nGone is that.\n\nEnd."
    )


@pytest.mark.parametrize(
    "front",
    ["---\ntitle: x\ntags: [a, b]\n---\n", "---\na:\n  - b\n...\n", "--- \n{a: 1}\n---\t\n"],
)
def test_front_matter_goes(front: str) -> None:
    """A mapping in YAML on the first lines."""
    assert text_of_markdown(front + "Text.") == "Text."


@pytest.mark.parametrize(
    "markdown",
    [
        "---\nProse it is, and no mapping.\n---\n\nEnd.",
        "---\n- a list\n---\n\nEnd.",
        "---\nkey: [unclosed\n---\n\nEnd.",
        "Intro.\n\n---\n\nkey: value\n\n---\n\nEnd.",
        "\n---\nkey: value\n---\n\nEnd.",
        "---\nkey: value\n\nEnd.",
        "----\nkey: value\n----\n\nEnd.",
        "---\n&a [*a, *a]: b\n---\nEnd.",
    ],
)
def test_what_is_no_front_matter_stays(markdown: str) -> None:
    """Prose between two rules, later mappings, broken YAML."""
    text = text_of_markdown(markdown)
    for word in ("Prose it is, and no mapping.", "a list", "key: value", "unclosed", "End."):
        assert (word in text) == (word in markdown), text


def test_all_the_rest_of_commonmark() -> None:
    """Headings of both kinds, emphasis, links, images, lists, quotes, tables, escapes, entities."""
    text = text_of_markdown(
        "Title\n=====\n\n## Second ##\n\nSome *very* **bold** ~~old~~ snake_case 2 * 3 \\*a\\*"
        " &amp; [link *x*](http://a.example 't') ![alt *y*](z.png) [ref][1] <http://auto.example>"
        "\n"
        "next line\n\n1. one\n2. two\n   - inner\n\n> quoted\n> > twice\n\n"
        "| a | b |\n|---|---|\n| c \\| d | e |\n\n***\n\n[1]: http://gone.example\n\n"
        "A<br>B <b>c</b>"
    )
    assert text == (
        "Title\n\nSecond\n\nSome very bold old snake_case 2 * 3 *a* & link x alt y ref"
        " http://auto.example\nnext line\n\n1. one\n\n2. two\n\n- inner\n\nquoted\n\ntwice\n\n"
        "a  b\n\nc | d  e\n\nA\nB c"
    )


def test_html_within_is_read_as_html() -> None:
    """Its text stays, its scripts go, its code is kept."""
    text = text_of_markdown("<details>\n<p>one</p>\n<script>no</script><pre>a  b</pre></details>\n")
    assert "one" in text and "a  b" in text and "no" not in text


@given(st.text(alphabet="ab \n", max_size=60))
def test_plain_words_stay(text: str) -> None:
    """Text without markup loses no word."""
    assert text_of_markdown(text).split() == text.split()


@pytest.mark.parametrize(
    "piece",
    [
        "<!--",
        "[a](",
        "**a",
        "`",
        "_a",
        "# #",
        "![[",
        "- \t",
        "\n#",
        "> ",
        "[",
        "- a\n  ",
        "|a",
        "&",
    ],
)
def test_time_is_linear(piece: str) -> None:
    """Text made to upset a parser takes twice as long when it is twice as long."""

    def seconds(count: int) -> float:
        started = time.process_time()
        text_of_markdown("x" + piece * count)
        return time.process_time() - started

    seconds(1_000)
    assert seconds(8_000) < 0.5 + 6 * seconds(4_000)


@pytest.mark.parametrize("mark", ["> ", "- ", "1. "])
def test_what_nests_too_deeply_is_not_lost(mark: str) -> None:
    """It stays as it is written."""
    assert "end" in text_of_markdown(mark * 3_000 + "end")
    nested = "".join(f"{'  ' * depth}- a{depth}\n" for depth in range(200))
    assert "a199" in text_of_markdown(nested)
