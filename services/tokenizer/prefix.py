"""A prefix that is dropped from a text which comes in portions; knows nothing of tokens."""


class PrefixFilter:
    """Drops `prefix` where the text begins with it; until that is certain, the text is held back.

    The result does not depend on the portions. A text that differs, or ends before the prefix
    does, comes out whole.
    """

    __slots__ = ("_held", "_prefix", "is_decided", "num_dropped")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._held = ""
        self.is_decided = not prefix
        self.num_dropped = 0

    def feed(self, text: str, *, final: bool = False) -> str:
        """Return what may go on of the text so far; `final` when no more comes."""
        if self.is_decided:
            return text
        self._held += text
        if self._held.startswith(self._prefix):
            self.num_dropped = len(self._prefix)
        elif not final and self._prefix.startswith(self._held):
            return ""
        self.is_decided = True
        released, self._held = self._held[self.num_dropped :], ""
        return released
