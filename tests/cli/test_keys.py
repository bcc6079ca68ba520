"""Keys on disk: private, kept, whole."""

import os
import stat
from pathlib import Path

import pytest

from cli import keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key shall lie."""
    return tmp_path / "dev-key"


def test_a_new_key_is_alone_in_a_file_that_only_its_owner_reads(path: Path) -> None:
    """No line break follows the key, and a lax umask does not open the file."""
    before = os.umask(0)
    try:
        key = keys.ensure(path)
    finally:
        os.umask(before)
    assert path.read_bytes() == key.encode()
    assert key.startswith("sk-infermesh-")
    assert len(key) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_next_start_uses_the_same_key(path: Path) -> None:
    """A stack that restarts keeps its clients."""
    assert keys.ensure(path) == keys.ensure(path)


def test_an_open_file_is_closed_again(path: Path) -> None:
    """A key that others could read stays, its mode does not."""
    path.write_text("sk-infermesh-mine\n")
    path.chmod(0o644)
    assert keys.ensure(path) == "sk-infermesh-mine"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_given_key_replaces_the_one_on_disk(path: Path) -> None:
    """The environment wins, and the file says what holds."""
    keys.ensure(path)
    assert keys.ensure(path, "sk-mine") == "sk-mine"
    assert keys.read(path) == "sk-mine"


def test_a_link_is_replaced_and_not_followed(path: Path, tmp_path: Path) -> None:
    """What someone else's file held is left as it was."""
    other = tmp_path / "other"
    other.write_text("")
    path.symlink_to(other)
    keys.ensure(path)
    assert other.read_text() == ""
    assert not path.is_symlink()


def test_no_file_is_no_key(path: Path) -> None:
    """Client commands work without one: the gateway tells them off."""
    assert keys.read(path) == ""
