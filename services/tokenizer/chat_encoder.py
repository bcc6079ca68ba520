"""A chat to a prompt's ids: the template renders it, and it alone writes control tokens."""

from collections.abc import Sequence
from typing import NamedTuple

from mesh.errors import MeshError
from services.tokenizer.chat import ChatTemplate, Message
from services.tokenizer.checkpoint import Checkpoint
from services.tokenizer.control_tokens import ControlTokens
from services.tokenizer.grounding import Grounding

# as much as a stream's deltas carry
MAX_PREFIX_CHARS = 1_024
_PROBE = "\ufdd0"


class ChatPrompt(NamedTuple):
    """A rendered chat and its ids, which end with `answer_start`, the first text of the answer.

    `answer_prefix` is what the model writes before an answer of its own.
    """

    text: str
    ids: list[int]
    answer_prefix: str = ""
    answer_start: str = ""


class ChatEncoder:
    """The chat template of one checkpoint with its control tokens. Thread-safe.

    `answer_prefix` is what the template writes between its generation prompt and an assistant's
    text, as far as tokens show it: a model that was trained with it begins its answers so.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._template = ChatTemplate.of(checkpoint)
        self._grounding = Grounding.of(checkpoint)
        self._control_tokens = ControlTokens(checkpoint.tokenizer_json)
        self.answer_prefix = self._answer_prefix()

    @property
    def has_template(self) -> bool:
        """False for base models."""
        return self._template.exists

    def encode(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        passages: Sequence[str] | None = None,
    ) -> ChatPrompt:
        """Return the prompt, grounded in `passages` where some are given, be it none at all.

        Raises what `ChatTemplate.render` does. Spellings of control tokens in names and contents
        are encoded as the text that they are.
        """
        if passages is None:
            return self.prompt(messages, add_generation_prompt=add_generation_prompt)
        messages, start = self._grounding.ground(messages, passages)
        return self.prompt(messages, start, add_generation_prompt=add_generation_prompt)

    def prompt(
        self, messages: Sequence[Message], start: str = "", *, add_generation_prompt: bool = True
    ) -> ChatPrompt:
        """Return the prompt of a chat as it is, whose answer is to begin with `start`."""
        guard = self._control_tokens.guard([text for m in messages for text in (m.content, m.name)])
        text = self._template.render(
            [Message(m.role, guard(m.content), guard(m.name)) for m in messages],
            add_generation_prompt=add_generation_prompt,
        )
        prefix = self.answer_prefix
        if not add_generation_prompt:
            prefix = start = ""
        if start:
            # the prompt has both already
            text, prefix = text + prefix + start, ""
        ids = self._control_tokens.encode(text, guard.mark)
        return ChatPrompt(text.replace(guard.mark, ""), ids, prefix, start)

    def _answer_prefix(self) -> str:
        question, answer = Message("user", "a"), Message("assistant", _PROBE)
        try:
            prompt = self._template.render([question], add_generation_prompt=True)
            answered = self._template.render([question, answer], add_generation_prompt=False)
        except MeshError:
            # no template, or one that takes no such chat
            return ""
        before, probe, _ = answered.partition(_PROBE)
        if not probe or not before.startswith(prompt):
            return ""
        prefix = self._control_tokens.shown(before.removeprefix(prompt))
        return prefix if len(prefix) <= MAX_PREFIX_CHARS else ""
