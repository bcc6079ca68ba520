"""What results say of where they come from."""

from pathlib import Path

import pytest

from bench.common.machine import describe


def test_a_machine_without_git_is_described(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Results are written all the same, without a commit."""
    monkeypatch.setenv("PATH", str(tmp_path))
    told = describe()
    assert told["commit"] == ""
    assert told["python"]
