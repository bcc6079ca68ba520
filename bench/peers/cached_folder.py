"""A folder that takes long to make, kept while the recipe that it was made from stays the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

STAMP = "made-from.txt"


def cached_folder(folder: Path, recipe: str, make: Callable[[], object]) -> Path:
    """Return `folder`, emptied and filled by `make` unless it was made from this very `recipe`.

    The recipe is written last, so what was cut short is made anew.
    """
    stamp = folder / STAMP
    if not stamp.exists() or stamp.read_text() != recipe:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make()
        stamp.write_text(recipe)
    return folder
