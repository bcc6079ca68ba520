"""A step that does not end is seen, and the stacks are told once."""

import logging

import pytest

from services.generator.serving.watchdog import Watchdog


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def dumps(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


def test_a_step_is_wedged_after_the_limit() -> None:
    """Not at it, and not once it has ended; idle time is no step."""
    clock = Clock()
    watchdog = Watchdog(3.0, clock)
    clock.now_s += 10.0
    assert not watchdog.is_wedged
    watchdog.begin()
    clock.now_s += 3.0
    assert not watchdog.is_wedged
    clock.now_s += 0.1
    assert watchdog.is_wedged
    watchdog.end()
    assert not watchdog.is_wedged


def test_stacks_are_told_once_per_wedge(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is checked; the end is told, and a second wedge is told again."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    watchdog = Watchdog(3.0, clock)
    for number in (1, 2):
        watchdog.begin()
        watchdog.check()
        clock.now_s += 4.0
        for _ in range(3):
            watchdog.check()
        assert len(dumps(caplog)) == number
        watchdog.end()
        watchdog.check()
        watchdog.check()
        goes_on = [r for r in caplog.records if "goes on" in r.getMessage()]
        assert len(goes_on) == number
    assert "not ended for 4.0 s" in dumps(caplog)[0]
    assert "Thread MainThread:" in dumps(caplog)[0]
    assert "test_stacks_are_told_once_per_wedge" in dumps(caplog)[0]


def test_quick_steps_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Many steps in a row, each below the limit, say nothing."""
    clock = Clock()
    watchdog = Watchdog(3.0, clock)
    for _ in range(5):
        watchdog.begin()
        clock.now_s += 2.0
        watchdog.check()
        watchdog.end()
    assert not caplog.records
