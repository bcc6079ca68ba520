"""What a person sees."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from cli.log import Log
from cli.replica import Replica, Service, State
from cli.table import Lines, LiveTable, screen


@pytest.fixture
async def replica(tmp_path: Path) -> Replica:
    """One that was restarted once and is ready."""
    service = Service("cache", 0, ("x",), {}, 20_001, lambda: True)
    with ThreadPoolExecutor(1) as pool:
        made = Replica(service, Log(tmp_path / "log"), lambda *_: None, pool)
    made.state, made.pid, made.restarts = State.READY, 4711, 1
    return made


def test_without_a_terminal_each_change_is_a_line(
    replica: Replica, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that the table would show."""
    with screen({"nats": "nats://elsewhere:4222"}) as shown:
        assert type(shown) is Lines
        shown.changed(replica, "")
        shown.changed(replica, "ended")
        shown.show([replica])
    external, *lines = capsys.readouterr().out.splitlines()
    assert external.split() == ["nats", "external", "nats://elsewhere:4222"]
    assert lines[0].split() == ["cache-0", "ready", "pid", "4711", "port", "20001", "restarts", "1"]
    assert lines[1].split()[-1] == "ended"


def test_on_a_terminal_a_table_shows_the_state(replica: Replica) -> None:
    """Changes alone print nothing; details scroll above."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, no_color=True)
    with LiveTable({"nats": "nats://elsewhere:4222"}, console) as shown:
        shown.changed(replica, "")
        assert "cache-0" not in output.getvalue()
        shown.changed(replica, "ended with exit code 1")
        shown.show([replica])
    text = output.getvalue()
    assert "cache-0 ended with exit code 1" in text
    row = next(line for line in text.splitlines() if "4711" in line)
    assert all(cell in row for cell in ("cache-0", "ready", "20001", "1"))
    assert "nats://elsewhere:4222" in text


def test_a_long_line_stays_one_line_that_pastes(replica: Replica) -> None:
    """Also where the terminal is narrow and the text looks like markup."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=40, no_color=True)
    line = "curl -d '[bold]" + "x" * 200 + "'"
    with LiveTable({}, console) as shown:
        shown.show([replica])
        shown.say(line)
    assert line in output.getvalue()


async def test_states_read_as_words() -> None:
    """They are shown as they are."""
    await asyncio.sleep(0)
    assert {str(state) for state in State} == {
        "starting",
        "ready",
        "not ready",
        "restarting",
        "stopping",
        "stopped",
    }
