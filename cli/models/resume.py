"""Downloads that go on where an earlier one ended, however it did, and are checked by their hash.

The bytes that are there already lie in a file that is called by the hash of the whole: those of
another version have another name.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub import constants, get_session, hf_raise_for_status

from cli.models.errors import PullError
from cli.models.hub_files import HubFile

# as often a file's connection may break; each goes on where the last one ended
_CONNECTIONS = 5


def part_name(file: HubFile) -> str:
    """Return what a file is called while it is not whole."""
    return f".{file.digest}.incomplete"


def fetch(file: HubFile, url: str, headers: Mapping[str, str], folder: Path) -> None:
    """Have the file in the folder, under its name once it is whole and checked.

    Raises PullError for other bytes, httpx2's errors and huggingface_hub's HfHubHTTPError for those
    of the network, and OSError for those of the disk.
    """
    path, part = folder / file.name, folder / part_name(file)
    if file.is_at(path):
        return
    path.unlink(missing_ok=True)
    part.touch()
    goes_on = part.stat().st_size > 0
    _complete(part, file, url, headers)
    if goes_on and not file.is_at(part):
        # what was there was not its beginning
        part.write_bytes(b"")
        _complete(part, file, url, headers)
    if not file.is_at(part):
        part.unlink()
        raise PullError(f"{file.path} is not the file that the hub names: its hash is another")
    part.replace(path)


def _complete(part: Path, file: HubFile, url: str, headers: Mapping[str, str]) -> None:
    """Append what is missing of the file, over as many connections as it may take."""
    for connections_left in reversed(range(_CONNECTIONS)):
        before = part.stat().st_size
        if before == file.num_bytes:
            return
        try:
            _append(part, file, url, headers)
        except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError):
            if not connections_left or part.stat().st_size <= before:
                raise
    if part.stat().st_size == file.num_bytes:
        return
    raise PullError(f"the hub does not send all {file.num_bytes} bytes of {file.path}")


def _append(part: Path, file: HubFile, url: str, headers: Mapping[str, str]) -> None:
    """Ask once for the bytes that are missing, for all where the server knows no ranges."""
    # a range of compressed bytes would be one of others
    asked = {**headers, "Accept-Encoding": "identity"}
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with part.open("r+b") as target:
        start = target.seek(0, os.SEEK_END)
        if start > file.num_bytes:
            start = _begin_anew(target)
        if start:
            asked["Range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=asked, timeout=timeout_s) as response:
            if response.status_code != 416:
                hf_raise_for_status(response)
            if start and not _begins_at(response, start):
                start = _begin_anew(target)
            if start or response.status_code == 200:
                _write(response, target, file.num_bytes)


def _write(response: httpx2.Response, target: BinaryIO, num_bytes: int) -> None:
    """Write what is sent, up to a whole size of `num_bytes`."""
    for chunk in response.iter_bytes():
        left = num_bytes - target.tell()
        target.write(chunk[:left])
        if left <= len(chunk):
            return


def _begin_anew(target: BinaryIO) -> int:
    target.truncate(0)
    return target.seek(0)


def _begins_at(response: httpx2.Response, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and match is not None and int(match[1]) == start
