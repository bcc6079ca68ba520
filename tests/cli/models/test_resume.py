"""Downloads from a hub that go on where they were interrupted."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.models.hub_server import GGUF, Hub, command, environment, pull


def pull_to_its_half(hub: Hub, folder: Path) -> None:
    """Kill a pull when half of its file was sent, and has reached the disk."""
    hub.goes_on.clear()
    with subprocess.Popen(
        command("org/name"), env=environment(hub.url, folder), stderr=subprocess.DEVNULL
    ) as process:
        assert hub.is_half_way.wait(30)
        while not any(path.stat().st_size for path in folder.glob("models/.*/.*.incomplete")):
            assert process.poll() is None
        process.kill()
    assert process.returncode != 0
    hub.goes_on.set()
    assert [*folder.glob("models/[!.]*")] == []


def part(folder: Path) -> Path:
    (path,) = folder.glob("models/.*/.*.incomplete")
    return path


def test_a_killed_pull_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    """The second one asks for the rest alone."""
    pull_to_its_half(hub, tmp_path)
    size = part(tmp_path).stat().st_size
    assert 0 < size < len(GGUF)
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert hub.requests == [("one.Q4_0.gguf", None), ("one.Q4_0.gguf", f"bytes={size}-")]
    assert (tmp_path / "models/org--name/one.Q4_0.gguf").read_bytes() == GGUF


def test_a_server_without_ranges_sends_all_again(hub: Hub, tmp_path: Path) -> None:
    """What it sends takes the place of what was there."""
    pull_to_its_half(hub, tmp_path)
    hub.knows_ranges = False
    assert pull("org/name", hub.url, tmp_path).returncode == 0
    assert (tmp_path / "models/org--name/one.Q4_0.gguf").read_bytes() == GGUF


def test_another_range_than_was_asked_for_is_not_taken(hub: Hub, tmp_path: Path) -> None:
    """The file is fetched anew."""
    pull_to_its_half(hub, tmp_path)
    hub.range_shift = 1
    assert pull("org/name", hub.url, tmp_path).returncode == 0
    assert (tmp_path / "models/org--name/one.Q4_0.gguf").read_bytes() == GGUF
    assert hub.requests[-1] == ("one.Q4_0.gguf", None)


def test_another_version_begins_anew(hub: Hub, tmp_path: Path) -> None:
    """The bytes of the old one go."""
    pull_to_its_half(hub, tmp_path)
    hub.files["one.Q4_0.gguf"] = newer = b"GGUF" + os.urandom(400_000)
    assert pull("org/name", hub.url, tmp_path).returncode == 0
    assert (tmp_path / "models/org--name/one.Q4_0.gguf").read_bytes() == newer
    assert hub.requests[1:] == [("one.Q4_0.gguf", None)]
    assert len([*(tmp_path / "models/org--name").iterdir()]) == 1


@pytest.mark.parametrize("size", [100_000, len(GGUF), len(GGUF) + 1])
def test_a_damaged_part_is_fetched_anew(hub: Hub, size: int, tmp_path: Path) -> None:
    """Its hash is that of the whole file, however long the part is."""
    pull_to_its_half(hub, tmp_path)
    part(tmp_path).write_bytes(bytes(size))
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "models/org--name/one.Q4_0.gguf").read_bytes() == GGUF


def test_a_connection_that_breaks_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    """In the same pull."""
    hub.breaks = 2
    ended = pull("org/name", hub.url, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "models/org--name/one.Q4_0.gguf").read_bytes() == GGUF
    assert [asked is None for _, asked in hub.requests] == [True, False, False]


def test_a_hub_that_falls_silent_is_left(hub: Hub, tmp_path: Path) -> None:
    """The pull ends in the middle of a file, and says after how long."""
    hub.goes_on.clear()
    ended = pull("org/name", hub.url, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith("did not answer within 1 s")
