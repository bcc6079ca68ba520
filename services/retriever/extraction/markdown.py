"""Markdown to text: CommonMark and its tables are rendered, and read as HTML is.

Only markup goes: text and code stay by the letter.
"""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from services.retriever.extraction.html import PREFORMATTED, text_of_html

MAX_FRONT_MATTER_CHARS = 64 * 1024
# what lies deeper is not read as markup: the parser would leave it out
_MAX_NESTING = 50
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_AS_WRITTEN = PREFORMATTED | {"code"}


def text_of_markdown(markdown: str) -> str:
    """Return the text of a document with line feeds; what nests too deeply stays as written."""
    body = _without_front_matter(markdown)
    parser = _parser()
    try:
        tokens = parser.parse(body)
        if any(token.level >= _MAX_NESTING - 2 for token in tokens):
            return body
        html = parser.renderer.render(tokens, parser.options, {})
    except RecursionError:
        return body
    return text_of_html(html, _AS_WRITTEN)


def _parser() -> MarkdownIt:
    # a line end within a paragraph stays one
    options = {"maxNesting": _MAX_NESTING, "breaks": True}
    parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    parser.add_render_rule("list_item_open", _list_item)
    parser.add_render_rule("image", _image)
    return parser


def _list_item(
    renderer: Any, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    """Return the item's mark as text: it tells the items apart."""
    token = tokens[index]
    return f"<li>{token.info}{token.markup} "


def _image(
    renderer: Any, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    """Return what stands for the image."""
    return escapeHtml(renderer.renderInlineAsText(tokens[index].children or [], options, env))


def _without_front_matter(markdown: str) -> str:
    """Cut a YAML mapping between `---` on the first line and the next `---` or `...`."""
    found = _FRONT_MATTER.match(markdown[:MAX_FRONT_MATTER_CHARS])
    if found is None:
        return markdown
    try:
        values = yaml.safe_load(found[1] or "")
    except (yaml.YAMLError, RecursionError, ValueError):
        return markdown
    return markdown[found.end() :] if isinstance(values, dict) else markdown
