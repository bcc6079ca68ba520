"""HTML to the text that a reader of the page sees, by the tree that browsers build of it."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

_UNSEEN = frozenset(
    {"script", "style", "template", "noscript", "svg", "iframe", "noembed", "noframes"}
)
_LINES = frozenset({"li", "tr", "dt", "dd", "option"})
_CELLS = frozenset({"td", "th"})
# fmt: off
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "div", "dl", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head",
    "header", "hr", "main", "nav", "ol", "p", "plaintext", "pre", "section", "table", "title", "ul",
})
# fmt: on
# elements that the next of their kind closes, and those without content: they do not nest by count
# fmt: off
_SHALLOW = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr", "p", "li", "dt", "dd", "option", "optgroup", "tr", "td", "th", "tbody", "thead", "tfoot",
    "colgroup", "rp", "rt",
})
# fmt: on
# browsers stop nesting at a few hundred, too: each element looks at all that are open around it
MAX_DEPTH = 1_000
# bounded, so that time stays linear; longer tags are too few to nest deeply
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,30})[^>]{0,500}>")
PREFORMATTED = frozenset({"pre", "textarea", "listing", "xmp", "plaintext"})
_BLANKS = re.compile(r"\s+")


def text_of_html(html: str, preformatted: frozenset[str] = PREFORMATTED) -> str:
    """Return the visible text: blocks are paragraphs, rows are lines, blanks are one.

    Within `preformatted` elements text is kept as it stands.
    """
    parts: list[str] = []
    kept = 0
    for node, enters in _walk(_tree(html)):
        if node.is_text_node:
            text = node.text_content or ""
            if not kept:
                text = _BLANKS.sub(" ", text)
                # blanks on both sides of a tag are one
                text = text.removeprefix(" ") if parts and parts[-1].endswith(" ") else text
            parts.append(text)
            continue
        tag = node.tag
        if tag in preformatted:
            kept += 1 if enters else -1
        if separator := _separator(tag, enters=enters):
            parts.append(separator)
    return _tidied("".join(parts))


def _tree(html: str) -> "LexborNode | None":
    """Return the root of what a browser that runs scripts builds."""
    return LexborHTMLParser(_flattened(html), scripting=True).root


def _flattened(html: str) -> str:
    """Return the document without the tags that would nest deeper than MAX_DEPTH."""
    if html.count("<") <= MAX_DEPTH:
        return html
    depth = num_dropped = 0

    def kept(match: re.Match[str]) -> str:
        nonlocal depth, num_dropped
        if match[2].lower() in _SHALLOW:
            return match[0]
        if match[1]:
            if num_dropped:
                num_dropped -= 1
                return " "
            depth = max(0, depth - 1)
        elif depth < MAX_DEPTH:
            depth += 1
        else:
            num_dropped += 1
            return " "
        return match[0]

    return _TAG.sub(kept, html)


def _walk(root: "LexborNode | None") -> Iterator[tuple[LexborNode, bool]]:
    """Yield each node as it is entered and each element as it is left; none that is not seen.

    In one loop: a document may be as deep as it is long.
    """
    node = root
    depth = 0
    while node is not None:
        is_seen = node.tag not in _UNSEEN
        if is_seen:
            yield node, True
        child = node.first_child if is_seen and not node.is_text_node else None
        if child is not None:
            node, depth = child, depth + 1
            continue
        if is_seen and not node.is_text_node:
            yield node, False
        while node is not None and node.next is None and depth:
            node, depth = node.parent, depth - 1
            if node is not None:
                yield node, False
        node = node.next if node is not None and depth else None


def _separator(tag: str | None, *, enters: bool) -> str:
    if tag in _BLOCKS:
        return "\n\n"
    if tag == "br":
        return "\n" if enters else ""
    if tag in _LINES:
        return "\n"
    return " " if tag in _CELLS else ""


def _tidied(text: str) -> str:
    lines = [line.strip() for line in text.split("\n")]
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).strip()
