"""Numbered frames that can be sent again."""

from mesh.pb import common_pb2, events_pb2
from services.gateway.generation.frame_order import FrameOrder
from services.generator.serving.outbox import FULL_FRAME_BYTES, MAX_KEPT_FRAMES, Outbox


def delta(name: str = "j") -> events_pb2.SequenceDelta:
    return events_pb2.SequenceDelta(job_id=name, token_ids=[1])


def test_numbers_start_at_one_without_gaps() -> None:
    """Each frame has the next number and names its replica."""
    outbox = Outbox("r1")
    frames = [outbox.frame([delta()]) for _ in range(3)]
    assert [f.number for f in frames] == [1, 2, 3]
    assert {f.replica_id for f in frames} == {"r1"}
    assert [f.oldest for f in frames] == [1, 1, 1]


def test_deltas_share_a_frame_until_it_is_full() -> None:
    """Small deltas go together; long prompts' scores take several frames, in order."""
    outbox = Outbox("r1")
    assert outbox.frames([]) == []
    [together] = outbox.frames([delta(str(i)) for i in range(100)])
    assert len(together.deltas) == 100
    told = common_pb2.TokenLogprobs(top_token_ids=range(20), top_logprobs=[-0.5] * 20)
    large = events_pb2.SequenceDelta(job_id="long", prompt_logprobs=[told] * 6000)
    frames = outbox.frames([delta("a"), large, large, delta("b"), large])
    assert [f.number for f in frames] == list(range(2, 2 + len(frames)))
    assert max(f.ByteSize() for f in frames) < FULL_FRAME_BYTES + large.ByteSize()
    assert len(frames) > 1
    names = [d.job_id for f in frames for d in f.deltas]
    assert names == ["a", "long", "long", "b", "long"]


def test_a_heartbeat_repeats_the_last_number() -> None:
    """It has no deltas; before the first frame its number is 0."""
    outbox = Outbox("r1")
    assert (outbox.heartbeat().number, outbox.heartbeat().oldest) == (0, 1)
    outbox.frame([delta()])
    beat = outbox.heartbeat()
    assert (beat.number, beat.oldest, len(beat.deltas)) == (1, 1, 0)


def test_frames_come_again() -> None:
    """Both ends of the asked range are included; what is unknown is left out."""
    outbox = Outbox("r1")
    for n in range(5):
        outbox.frame([delta(f"j{n + 1}")])
    assert [f.number for f in outbox.again(2, 4)] == [2, 3, 4]
    assert [f.deltas[0].job_id for f in outbox.again(5, 99)] == ["j5"]
    assert outbox.again(6, 99) == []


def test_old_frames_are_forgotten() -> None:
    """The last MAX_KEPT_FRAMES stay, and `oldest` always names the first that does."""
    outbox = Outbox("r1")
    for _ in range(MAX_KEPT_FRAMES + 3):
        frame = outbox.frame([delta()])
        assert outbox.again(frame.oldest, frame.oldest), "oldest can be sent again"
    assert frame.oldest == outbox.oldest == outbox.heartbeat().oldest == 4
    assert outbox.again(1, 3) == []
    assert {f.oldest for f in outbox.again(4, 5)} == {4}, "resent frames tell today's oldest"


def test_both_ends_agree() -> None:
    """A reader that loses any frame gets it from the sender and ends in the same order."""
    outbox: Outbox = Outbox("r1")
    line: FrameOrder[int] = FrameOrder()
    got: list[int] = []
    for number in range(1, 50):
        frame = outbox.frame([delta()])
        if number % 3 == 0:
            continue
        arrival = line.accept(frame.number, frame.number, frame.oldest)
        got.extend(arrival.ready)
        if arrival.missing is not None:
            for again in outbox.again(*arrival.missing):
                got.extend(line.accept(again.number, again.number, again.oldest).ready)
    assert got == list(range(1, 50))
