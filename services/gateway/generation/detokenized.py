"""One sequence on a stream to the tokenizer: what the service has of it, and what it owes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.pb import tokenizer_pb2 as pb
from services.gateway.domain.generation import GenerationRequest, TokenPiece


@dataclass(frozen=True, slots=True)
class Text:
    """New text; `stopped` when a stop string ended it, `final` when nothing follows.

    `num_tokens` counts the tokens sent so far whose text is accounted for; those after a stop
    string are not. `tokens` are further ones whose text is out, where they are asked for.
    """

    text: str
    num_tokens: int
    stopped: bool
    final: bool
    tokens: Sequence[TokenPiece] = ()


Sink = Callable[[Text], None]


class TextOptions(NamedTuple):
    """What becomes of a sequence's text; the fields are those of `mesh.v1.DetokenizeDelta`."""

    stop: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    skip_prefix: str = ""
    describe_tokens: bool = False

    @classmethod
    def of(cls, request: GenerationRequest) -> "TextOptions":
        """Return what a request's text needs."""
        sampling = request.sampling
        return cls(
            request.stop,
            request.include_stop,
            sampling.min_tokens,
            request.answer_prefix,
            sampling.logprobs is not None,
        )

    def message(self) -> pb.DetokenizeDelta:
        """Return these options alone, for the first delta of a sequence."""
        return pb.DetokenizeDelta(
            stop=self.stop,
            include_stop=self.include_stop,
            min_tokens=self.min_tokens,
            skip_prefix=self.skip_prefix,
            describe_tokens=self.describe_tokens,
        )


@dataclass(slots=True, eq=False)
class DetokenizedSequence:
    """All tokens so far, of which the stream has had `num_sent`; `queued` to send it more.

    The service holds it while it is `opened` and not `closed`. What its sink has had of a stream
    that broke is skipped in the answers of the next.
    """

    id: str
    options: TextOptions
    sink: Sink
    token_ids: list[int] = field(default_factory=list)
    num_sent: int = 0
    final: bool = False
    forgotten: bool = False
    opened: bool = False
    closed: bool = False
    queued: bool = False
    num_chars: int = 0
    num_pieces: int = 0
    chars_to_skip: int = 0
    pieces_to_skip: int = 0

    @property
    def is_held(self) -> bool:
        """True while the service remembers it."""
        return self.opened and not self.closed

    def start_over(self) -> None:
        """Begin again on a new stream, which knows nothing of it."""
        self.num_sent = 0
        self.opened = self.closed = self.queued = False
        self.chars_to_skip, self.pieces_to_skip = self.num_chars, self.num_pieces

    def send(self, request: pb.DetokenizeRequest, most_tokens: int) -> tuple[int, bool]:
        """Add what was not sent yet; return the count of its tokens so far and whether it ends."""
        end = min(self.num_sent + most_tokens, len(self.token_ids))
        token_ids = self.token_ids[self.num_sent : end]
        self.num_sent = end
        self.closed = self.final and end == len(self.token_ids)
        delta = request.deltas.add(sequence_id=self.id, token_ids=token_ids, final=self.closed)
        if not self.opened:
            delta.MergeFrom(self.options.message())
            self.opened = True
        return end, self.closed

    def receive(self, delta: pb.TextDelta | None, num_tokens: int, *, final: bool) -> bool:
        """Hand on what came for its tokens up to a count; return whether the sequence has ended."""
        if delta is None:
            if final:
                self.sink(Text("", num_tokens, stopped=False, final=True))
            return final
        text, stopped = delta.text, delta.stopped
        if self.chars_to_skip:
            skipped = min(self.chars_to_skip, len(text))
            self.chars_to_skip -= skipped
            text = text[skipped:]
        self.num_chars += len(text)
        tokens = self._new_pieces(delta) if self.options.describe_tokens else ()
        ended = final or stopped
        if stopped:
            num_tokens -= delta.unused_tokens
        if text or tokens or ended:
            self.sink(Text(text, num_tokens, stopped, ended, tokens))
        return ended

    def _new_pieces(self, delta: pb.TextDelta) -> list[TokenPiece]:
        skipped = min(self.pieces_to_skip, len(delta.tokens))
        self.pieces_to_skip -= skipped
        pieces = [TokenPiece(t.data, t.name, t.offset) for t in delta.tokens[skipped:]]
        self.num_pieces += len(pieces)
        return pieces
