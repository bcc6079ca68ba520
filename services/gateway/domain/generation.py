"""What the gateway asks of the generator stage and what comes back: ids in, text out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.errors import unavailable
from services.gateway.domain.errors import model_not_found


@dataclass(frozen=True, slots=True)
class Defaults:
    """How a model wants to be sampled where a request does not say; `max_tokens` may be None."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model that at least one replica serves; lengths in tokens."""

    id: str
    revision: str
    context_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    # the revision tells models apart already, and a replica of an older version has none
    defaults: Defaults = field(default=Defaults(), compare=False)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; the fields are those of `mesh.v1.SamplingParams`, by name and meaning.

    `max_tokens` is 0 until the context decides it.
    """

    max_tokens: int = 0
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    beam_width: int = 0
    length_penalty: float | None = None
    include_stop_token: bool = False

    @property
    def asks_logprobs(self) -> bool:
        """True when more than text is wanted."""
        return self.logprobs is not None or self.prompt_logprobs is not None

    @property
    def is_beam_search(self) -> bool:
        """True where the `n` best of `beam_width` beams are searched rather than drawn."""
        return self.beam_width > 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate, or the `sampling.n` best that a beam search finds.

    `stop` strings end a sequence; their text is kept with `include_stop`. A beam search does not
    look at them: they cut what it found. `answer_prefix` is dropped where the text begins with it.
    """

    model: Model
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    tenant: str = ""
    priority: int = 0
    answer_prefix: str = ""

    @property
    def is_cacheable(self) -> bool:
        """True where an equal request has an equal answer, and its text is all of it."""
        return self.sampling.temperature == 0 and not self.sampling.asks_logprobs

    @property
    def max_new_tokens(self) -> int:
        """Tokens that may come on top of the prompt's, over all beams."""
        return self.sampling.max_tokens * max(1, self.sampling.beam_width)

    @property
    def peak_tokens(self) -> int:
        """KV tokens that it can come to hold."""
        return len(self.prompt_token_ids) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered conversation; an answer's text is told without `answer_prefix`.

    The prompt ends with `answer_start`, which the answer's text begins with.
    """

    token_ids: tuple[int, ...]
    answer_prefix: str = ""
    answer_start: str = ""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(slots=True, eq=False)
class Reservation:
    """What a generator's queue holds for sequences that are not submitted yet.

    `num_places` wait in the queue if need be, and may come to `num_tokens` KV tokens together;
    `num_direct` more, of `direct_tokens` each at most, can run at once. Only the queue that gave it
    changes it.
    """

    model: Model
    tenant: str
    priority: int
    num_places: int = 0
    num_tokens: int = 0
    num_direct: int = 0
    direct_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one sequence."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer as it was first given."""

    text: str
    finish_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that one sequence spent waiting, computing its prompt, and decoding."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class TokenPiece(NamedTuple):
    """What a token adds to a text: UTF-8, maybe a part of a character; `name` of a special token.

    `offset` is the index of the text's character that has its first byte.
    """

    data: bytes
    name: str = ""
    offset: int = 0


NOTHING = TokenPiece(b"")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely the model held a token (natural logarithm, before penalties and temperature).

    `rank` is 1 for the most likely; `top` holds ids and values of the likeliest tokens. `piece` is
    what an answer's token adds to its text.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()
    piece: TokenPiece = NOTHING


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of a sequence; the last one carries `finish_reason` ("stop" or "length").

    `sequence` counts the results of a beam search, best first; the first has the usage of all.

    Where asked for, `logprobs` describes the tokens of this text, and the first delta brings
    `prompt_logprobs` for all prompt tokens but the first.
    """

    text: str
    num_tokens: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    sequence: int = 0


def find_model(models: Iterable[Model], name: str) -> Model:
    """Return the model of that name; raises UNAVAILABLE where none is served, else NOT_FOUND."""
    served = {model.id: model for model in reversed(list(models))}
    if not served:
        raise unavailable("No generator is ready.")
    if name not in served:
        raise model_not_found(name)
    return served[name]
