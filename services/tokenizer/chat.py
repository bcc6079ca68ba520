"""Chat messages to a prompt's text by the checkpoint's template; knows no tokens.

Rendering follows transformers (utils/chat_template_utils.py), so that a template written for it
gives the same text here.
"""

import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.nodes
import jinja2.parser
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mesh.errors import Code, MeshError, invalid
from services.tokenizer.checkpoint import Checkpoint, CheckpointError

logger = logging.getLogger(__name__)

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    content: str
    name: str = ""


class ChatTemplate:
    """The template of one checkpoint, compiled once. Thread-safe."""

    def __init__(self, source: str | None, special_tokens: dict[str, str]) -> None:
        self._special_tokens = special_tokens
        try:
            self._template = None if source is None else _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(f"chat template, line {error.lineno}: {error}") from error

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "ChatTemplate":
        """Return the template of this checkpoint, which may have none."""
        return cls(checkpoint.chat_template, checkpoint.special_tokens)

    @property
    def exists(self) -> bool:
        """False for base models, which have no template."""
        return self._template is not None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Return the prompt's text.

        Raises FAILED_PRECONDITION without a template, and INVALID_ARGUMENT for messages that are
        empty, have an unknown role, or are refused by the template.
        """
        if self._template is None:
            raise MeshError(
                Code.FAILED_PRECONDITION,
                "The model has no chat template, so it takes plain prompts only, no messages.",
                field="messages",
            )
        if not messages:
            raise invalid("messages", "messages must hold at least one message.")
        plain = [_plain(i, message) for i, message in enumerate(messages)]
        try:
            return self._template.render(
                **self._special_tokens,
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except RefusedError as error:
            raise invalid(
                "messages", f"The model's chat template refuses messages: {error}"
            ) from None
        except Exception as error:
            # any expression of the template may fail on messages that it was not written for
            logger.warning("chat template failed", exc_info=True)
            raise invalid("messages", "The model's chat template cannot show messages.") from error


class RefusedError(jinja2.TemplateError):
    """The template itself called `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it only shows its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    environment.globals.update(functions)
    return environment


def _plain(i: int, message: Message) -> dict[str, str]:
    role = ROLES.get(message.role)
    if role is None:
        raise invalid(
            f"messages[{i}].role",
            f"messages[{i}].role must be one of {', '.join(ROLES)}.",
        )
    plain = {"role": role, "content": message.content}
    return plain | {"name": message.name} if message.name else plain


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML, which a model was not trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise RefusedError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
