"""llama.cpp's ids of texts, by npm's node-llama-cpp."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_SCRIPT = Path(__file__).with_suffix(".mjs")


class Tokenized(NamedTuple):
    """Ids of each text, in which control tokens count; and those at which a sequence ends."""

    adds_bos: bool
    ids: list[list[int]]
    end_ids: list[int]


def tokenized(modules: Path, model: Path, texts: Sequence[str]) -> Tokenized:
    """Return what llama.cpp makes of the texts; raises RuntimeError with what it says instead.

    `modules` is npm's folder in which it is installed.
    """
    given, output = model.with_suffix(".texts"), model.with_suffix(".ids")
    given.write_text(json.dumps(texts))
    command = ["node", _SCRIPT, modules.resolve(), model, given, output]
    # it complains of missing tensors, then takes the vocabulary alone
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return Tokenized(**json.loads(output.read_text()))
