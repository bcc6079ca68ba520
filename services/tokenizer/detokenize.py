"""Token ids of many sequences to text, step by step; knows neither the wire nor the caller."""

from collections.abc import Iterable, Sequence

from mesh.errors import Code, MeshError
from services.tokenizer.pieces import Pieces, TextDecoder
from services.tokenizer.stops import Scanned, StopFinder

MAX_SEQUENCES = 16_384


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

    def push(self, ids: Iterable[int], *, final: bool = False) -> Scanned:
        """The text that these ids add; `final` gives out what is held back too."""
        text = self._decoder.push(ids, final=final)
        if self._finder is None:
            return Scanned(text)
        scanned = self._finder.feed(text)
        if final and scanned.stop is None:
            return Scanned(scanned.text + self._finder.flush())
        return scanned


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
    ) -> Scanned:
        """One sequence's next ids; `stop` and `include_stop` count with its first ones only.

        Raises RESOURCE_EXHAUSTED when there are too many sequences.
        """
        if name in self._stopped:
            if final:
                del self._stopped[name]
            return Scanned("")
        sequence = self._live.get(name)
        if sequence is None:
            sequence = self._create(name, stop, include_stop)
        scanned = sequence.push(ids, final=final)
        if final or scanned.stop is not None:
            del self._live[name]
        if not final and scanned.stop is not None:
            self._remember(name)
        return scanned

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
