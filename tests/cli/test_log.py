"""What a person sees of a dead process's log."""

import json
from pathlib import Path

from cli.log import LINE_WIDTH, LINES, Log


def write(log: Log, text: str) -> None:
    """One life's output."""
    with log.open() as file:
        file.write(text.encode())


def test_only_the_last_life_is_shown(tmp_path: Path) -> None:
    """The file keeps all of them."""
    log = Log(tmp_path / "a.log")
    write(log, "old\n")
    write(log, "new\n")
    assert log.tail() == ["new"]
    assert log.path.read_text() == "old\nnew\n"


def test_long_output_is_cut(tmp_path: Path) -> None:
    """Few lines, none wider than a person reads."""
    log = Log(tmp_path / "a.log")
    write(log, "".join(f"{n} {'x' * 1000}\n" for n in range(100)))
    tail = log.tail()
    assert [line.split()[0] for line in tail] == [str(n) for n in range(100 - LINES, 100)]
    assert all(len(line) == LINE_WIDTH for line in tail)


def test_json_lines_are_made_readable(tmp_path: Path) -> None:
    """Level, message and the exception's own line; other lines stay."""
    entry = {
        "level": "ERROR",
        "message": "cache failed",
        "exception": "Traceback\n  at\nOSError: x",
    }
    log = Log(tmp_path / "a.log")
    write(log, f'plain\n{json.dumps(entry)}\n{{"no": 1}}\n7\n')
    assert log.tail() == ["plain", "ERROR cache failed", "OSError: x", '{"no": 1}', "7"]


def test_no_output_is_no_lines(tmp_path: Path) -> None:
    """A process that was killed before it could say anything."""
    log = Log(tmp_path / "a.log")
    write(log, "")
    assert log.tail() == []
