"""Token ids of many sequences to text, step by step; knows neither the wire nor the caller."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mesh.errors import Code, MeshError
from services.tokenizer.pieces import Pieces, TextDecoder
from services.tokenizer.stops import StopFinder

MAX_SEQUENCES = 16_384


class Added(NamedTuple):
    """What some ids add: text, the stop string that ended it, and how many came after that."""

    text: str
    stop: str | None = None
    num_unused: int = 0


class TextSequence:
    """One generated sequence: ids in, text out, up to a stop string.

    The texts add up to the decoding of all ids, cut at the stop string.
    """

    __slots__ = ("_decoder", "_finder")

    def __init__(
        self, pieces: Pieces, stop: Sequence[str] = (), *, include_stop: bool = False
    ) -> None:
        self._decoder = TextDecoder(pieces)
        self._finder = StopFinder(stop, include=include_stop) if stop else None

    def push(self, ids: Iterable[int], *, final: bool = False) -> Added:
        """Return the text that these ids add; `final` gives out what is held back too."""
        if self._finder is None:
            return Added(self._decoder.push(ids, final=final))
        portion = list(ids)
        released = ""
        # one by one, because it counts with which of them a stop string is complete
        for num_used, token_id in enumerate(portion, start=1):
            text, stop = self._finder.feed(self._decoder.push([token_id]))
            released += text
            if stop is not None:
                return Added(released, stop, len(portion) - num_used)
        if not final:
            return Added(released)
        text, stop = self._finder.feed(self._decoder.push([], final=True))
        return Added(released + text + (self._finder.flush() if stop is None else ""), stop)


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

    def __repr__(self) -> str:
        return f"<Detokenizer live={len(self._live)} stopped={len(self._stopped)}>"

    def push(
        self,
        name: str,
        ids: Iterable[int],
        *,
        final: bool = False,
        stop: Sequence[str] = (),
        include_stop: bool = False,
    ) -> Added:
        """One sequence's next ids; `stop` and `include_stop` count with its first ones only.

        Raises RESOURCE_EXHAUSTED when there are too many sequences.
        """
        if name in self._stopped:
            if final:
                del self._stopped[name]
            return Added("")
        sequence = self._live.get(name)
        if sequence is None:
            sequence = self._create(name, stop, include_stop)
        added = sequence.push(ids, final=final)
        if final or added.stop is not None:
            del self._live[name]
        if not final and added.stop is not None:
            self._remember(name)
        return added

    def _create(self, name: str, stop: Sequence[str], include_stop: bool) -> TextSequence:
        if len(self._live) >= self._limit:
            raise MeshError(
                Code.RESOURCE_EXHAUSTED,
                f"A stream carries at most {self._limit} sequences at a time.",
                field="deltas",
            )
        sequence = TextSequence(self._pieces, stop, include_stop=include_stop)
        self._live[name] = sequence
        return sequence

    def _remember(self, name: str) -> None:
        self._stopped[name] = None
        if len(self._stopped) > self._limit:
            del self._stopped[next(iter(self._stopped))]
