"""`infermesh models`: what is here, and what the catalogue offers."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cli.models.catalogue import catalogue
from cli.models.locate import ROOT
from cli.models.store import Store, StoreError, default_folder


class Line(NamedTuple):
    """A model as it is listed; `path` is None where it is not here."""

    name: str
    bytes: int
    license: str
    path: str | None
    description: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infermesh models`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """List; return 0, or 1 where the models' folder cannot be read."""
    try:
        listed = [*lines(Store(default_folder(os.environ)))]
    except StoreError as error:
        print(f"infermesh models: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([line._asdict() for line in listed], indent=2))
    else:
        show(listed)
    return 0


def lines(store: Store) -> Iterator[Line]:
    """Yield the catalogue's models, then what else is here."""
    for entry in catalogue().values():
        stored = store.find(entry.name)
        path = stored.path if stored else None
        size = stored.bytes if stored else 0 if entry.wheel is None else entry.wheel.bytes
        if entry.folder is not None:
            path = ROOT / entry.folder
            size = sum(each.stat().st_size for each in path.iterdir() if each.is_file())
        where = None if path is None else str(path)
        yield Line(entry.name, size, entry.license, where, entry.description)
    for other in store.all():
        if other.name not in catalogue():
            yield Line(other.name, other.bytes, "", str(other.path), "")


def show(listed: Sequence[Line]) -> None:
    """Print the list, a line for each model."""
    width = max(len(line.name) for line in listed)
    for line in listed:
        here = line.path or f"not here: infermesh pull {line.name}"
        size = f"{line.bytes / 1e6:,.0f} MB"
        print(f"{line.name:<{width}}  {size:>9}  {line.license:<10}  {here}")
