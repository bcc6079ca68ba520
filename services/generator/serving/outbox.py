"""Numbered frames for one gateway, kept a while so that missed ones can be sent again. Pure."""

from collections import deque
from collections.abc import Sequence

from mesh.pb import events_pb2

MAX_KEPT_FRAMES = 2048
# where a frame is full; the bus takes some more, for a last delta with a long prompt's scores
FULL_FRAME_BYTES = 2**20


class Outbox:
    """What one gateway is sent: frames numbered from 1, the last MAX_KEPT_FRAMES remembered."""

    def __init__(self, replica_id: str) -> None:
        self._replica_id = replica_id
        self._kept: deque[events_pb2.Frame] = deque(maxlen=MAX_KEPT_FRAMES)
        self._last = 0

    @property
    def oldest(self) -> int:
        """The first number that can still be sent again; one past the last when none can."""
        return self._kept[0].number if self._kept else self._last + 1

    def frame(self, deltas: Sequence[events_pb2.SequenceDelta]) -> events_pb2.Frame:
        """Return the next frame, holding these deltas (at least one)."""
        assert deltas, "an empty frame is a heartbeat. This is a bug."
        self._last += 1
        frame = events_pb2.Frame(replica_id=self._replica_id, number=self._last, deltas=deltas)
        self._kept.append(frame)
        frame.oldest = self.oldest
        return frame

    def frames(self, deltas: Sequence[events_pb2.SequenceDelta]) -> list[events_pb2.Frame]:
        """Return the next frames, these deltas in order: one, unless their bytes are too many."""
        frames: list[events_pb2.Frame] = []
        first, num_bytes = 0, 0
        for end, delta in enumerate(deltas, start=1):
            num_bytes += delta.ByteSize()
            if num_bytes >= FULL_FRAME_BYTES or end == len(deltas):
                frames.append(self.frame(deltas[first:end]))
                first, num_bytes = end, 0
        return frames

    def heartbeat(self) -> events_pb2.Frame:
        """Return a frame with the last number alone: the loss of the last frame is seen too."""
        return events_pb2.Frame(replica_id=self._replica_id, number=self._last, oldest=self.oldest)

    def again(self, first: int, last: int) -> list[events_pb2.Frame]:
        """Return the frames from `first` to `last` that are still there."""
        frames = [frame for frame in self._kept if first <= frame.number <= last]
        for frame in frames:
            frame.oldest = self.oldest
        return frames
