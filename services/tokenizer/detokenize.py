"""Token ids of many sequences to text, step by step; knows neither the wire nor the caller."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mesh.errors import Code, MeshError
from services.tokenizer.pieces import Pieces, TextDecoder
from services.tokenizer.prefix import PrefixFilter
from services.tokenizer.spans import TokenPiece, TokenSpans
from services.tokenizer.stops import Scanned, StopFinder

MAX_SEQUENCES = 16_384


class TextOptions(NamedTuple):
    """What becomes of a sequence's text.

    A `stop` string ends it where more than `min_tokens` ids are in, and stays in the text with
    `include_stop`. `skip_prefix` is dropped where the text begins so. With `describe_tokens` each
    id is described.
    """

    stop: Sequence[str] = ()
    include_stop: bool = False
    min_tokens: int = 0
    skip_prefix: str = ""
    describe_tokens: bool = False


PLAIN = TextOptions()


class Added(NamedTuple):
    """What some ids add: text, the stop string that ended it, and how many came after that.

    `tokens` describes further ids whose place in the text is certain; once it has ended, all.
    """

    text: str
    stop: str | None = None
    num_unused: int = 0
    tokens: Sequence[TokenPiece] = ()


class TextSequence:
    """One generated sequence: ids in, text out, up to a stop string.

    The texts add up to the decoding of all ids without the prefix, cut at the stop string. So do
    the tokens' bytes, where they are UTF-8.
    """

    __slots__ = (
        "_decoder",
        "_finder",
        "_is_plain",
        "_min_tokens",
        "_num_chars",
        "_num_early",
        "_num_searched",
        "_num_tokens",
        "_pieces",
        "_prefix",
        "_spans",
    )

    def __init__(self, pieces: Pieces, options: TextOptions = PLAIN) -> None:
        self._pieces = pieces
        self._decoder = TextDecoder(pieces)
        self._is_plain = options == PLAIN
        self._prefix = PrefixFilter(options.skip_prefix)
        self._finder: StopFinder | None = None
        if options.stop:
            self._finder = StopFinder(options.stop, include=options.include_stop)
        self._spans = TokenSpans(pieces.errors) if options.describe_tokens else None
        self._min_tokens = options.min_tokens
        self._num_tokens = 0
        # decoded characters that come too early to end the text, and those that were searched
        self._num_early = 0
        self._num_searched = 0
        # of the text that was given out
        self._num_chars = 0

    def push(self, ids: Iterable[int], *, final: bool = False) -> Added:
        """Return the text that these ids add; `final` gives out what is held back too."""
        if self._is_plain:
            return Added(self._decoder.push(ids, final=final))
        portion = list(ids)
        released = ""
        # one by one, because it counts with which of them a stop string is complete
        for num_used, token_id in enumerate(portion, start=1):
            text, stop = self._feed(token_id)
            released += text
            if stop is not None:
                return Added(released, stop, len(portion) - num_used, self._take(text, ended=True))
            self._num_chars += len(text)
        if not final:
            self._is_plain = (
                self._finder is None and self._spans is None and self._prefix.is_decided
            )
            return Added(released, tokens=self._take())
        text, stop = self._flush()
        return Added(released + text, stop, tokens=self._take(text, ended=True))

    def _feed(self, token_id: int) -> Scanned:
        if self._spans is not None:
            self._spans.add(self._decoder.piece(token_id), self._pieces.name(token_id))
        self._num_tokens += 1
        return self._scan(self._decoder.push((token_id,)))

    def _flush(self) -> Scanned:
        if self._spans is not None:
            self._spans.end()
        text, stop = self._scan(self._decoder.push((), final=True), final=True)
        if self._finder is not None and stop is None:
            text += self._finder.flush()
        return Scanned(text, stop)

    def _scan(self, decoded: str, *, final: bool = False) -> Scanned:
        """Return what may go out after decoded text, and the stop string that ends it."""
        text = self._prefix.feed(decoded, final=final)
        if self._finder is None:
            return Scanned(text)
        if self._num_tokens <= self._min_tokens:
            self._num_early += len(decoded)
        if not text:
            return Scanned("")
        num_early = self._num_early - self._prefix.num_dropped - self._num_searched
        self._num_searched += len(text)
        return self._finder.feed(text, max(0, num_early))

    def _take(self, text: str = "", *, ended: bool = False) -> Sequence[TokenPiece]:
        """Return the tokens whose place is certain, with the last text that was released."""
        self._num_chars += len(text)
        if self._spans is None:
            return ()
        num_cut = self._decoder.num_stripped + self._prefix.num_dropped
        return self._spans.take(num_cut, self._num_chars, ended=ended)


class Detokenizer:
    """The sequences of one caller. A sequence lives from its first ids to its end or stop string.

    Its caller learns of a stop late and may have sent more: the ids of stopped sequences are
    remembered, the last `limit` of them, and what comes for them is ignored.
    """

    def __init__(self, pieces: Pieces, limit: int = MAX_SEQUENCES) -> None:
        self._pieces = pieces
        self._limit = limit
        self._live: dict[str, TextSequence] = {}
        self._stopped: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, name: object) -> bool:
        return name in self._live

    def __repr__(self) -> str:
        return f"<Detokenizer live={len(self._live)} stopped={len(self._stopped)}>"

    def push(
        self, name: str, ids: Iterable[int], options: TextOptions = PLAIN, *, final: bool = False
    ) -> Added:
        """One sequence's next ids; `options` count with its first ones only.

        Raises RESOURCE_EXHAUSTED when there are too many sequences.
        """
        sequence = self._live.get(name)
        if sequence is None:
            if name in self._stopped:
                if final:
                    del self._stopped[name]
                return Added("")
            sequence = self._create(name, options)
        added = sequence.push(ids, final=final)
        if final or added.stop is not None:
            del self._live[name]
            if not final:
                self._remember(name)
        return added

    def _create(self, name: str, options: TextOptions) -> TextSequence:
        if len(self._live) >= self._limit:
            raise MeshError(
                Code.RESOURCE_EXHAUSTED,
                f"A stream carries at most {self._limit} sequences at a time.",
                field="deltas",
            )
        sequence = TextSequence(self._pieces, options)
        self._live[name] = sequence
        return sequence

    def _remember(self, name: str) -> None:
        self._stopped[name] = None
        if len(self._stopped) > self._limit:
            del self._stopped[next(iter(self._stopped))]
