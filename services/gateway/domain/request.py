"""What a caller asks for, in any endpoint's words: prompts and how to continue them."""

from dataclasses import dataclass, field

from mesh.errors import Code, MeshError
from services.gateway.domain.generation import Sampling

MAX_PRIORITY = 100


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller that a key stands for; answers are cached per tenant.

    A request may ask for a `priority` of `first_class` or more: to give way, or to go first.
    """

    tenant: str
    first_class: int = 0

    def check_priority(self, priority: int) -> None:
        """Raise PERMISSION_DENIED where its requests may not go so early."""
        if priority < self.first_class:
            message = f"priority must be at least {self.first_class} with this key."
            raise MeshError(Code.PERMISSION_DENIED, message, field="priority")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Passages to answer from; `query` is None where the last user message asks.

    `top_k` is how many at most, None where the gateway decides.
    """

    collection: str
    top_k: int | None
    query: str | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat to continue by the assistant's turn; `field` is its name in the request."""

    messages: tuple[Message, ...]
    retrieval: Retrieval | None = None
    field: str = "messages"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts to continue: texts, or token ids where the caller tokenized; never both.

    With `echo` an answer repeats its prompt. `field` is their name in the request.
    """

    texts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    echo: bool = False
    field: str = "prompt"

    def __len__(self) -> int:
        return len(self.texts) or len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to continue each prompt.

    `best_of` sequences are drawn per prompt, of which the `n` best are answered; a beam search
    finds its `n` in one run of width `best_of`. The model decides the fields of `sampling` that
    are `unset`. A refusal calls the longest answer by its `max_tokens_field`. A lower `priority`
    goes first. With `prompt_only` there is no new text: the prompt is read, and scored, alone.
    """

    model: str
    n: int = 1
    best_of: int = 1
    sampling: Sampling = field(default=Sampling())
    unset: frozenset[str] = frozenset()
    max_tokens_field: str = "max_tokens"
    prompt_only: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    priority: int = 0

    @property
    def runs_per_prompt(self) -> int:
        """How often the generator is asked to continue one prompt."""
        return 1 if self.sampling.is_beam_search else self.best_of


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request for text, as every endpoint hands it to the pipeline.

    `default_max_tokens` bounds an answer where neither the request nor its model does.
    """

    prompt: Conversation | Prompts
    options: Options
    default_max_tokens: int
