"""llama.cpp built ahead, by npm's node-llama-cpp, whose sequences share each batch.

The package carries a library for each kind of processor; `cpu` in the options leaves one of them.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.peers.gguf_file import write_gguf
from bench.peers.protocol import MAX_BATCHED_TOKENS, Prompts, Run, Setup, Timeline, serve

VERSION = "3.22.1"
MODEL = "model.gguf"
_SCRIPT = Path(__file__).with_suffix(".mjs")
_LIBRARIES = Path("@node-llama-cpp") / "linux-x64" / "bins" / "linux-x64"


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, str]) -> None:
    """Write the GGUF file, with a vocabulary: it loads none without. Or take the one that there is.

    Option `model` names that file, beside the checkpoint's folder.
    """
    if "model" in options:
        (folder / MODEL).symlink_to((checkpoint.parent / options["model"]).resolve(strict=True))
        return
    write_gguf(checkpoint, folder / MODEL, options["weights"], has_vocabulary=True)


def load(setup: Setup) -> Run:
    """Start Node with the model; return a run that asks it."""
    modules = _modules(setup.options.get("cpu"))
    model = setup.model if setup.model.is_file() else setup.model / MODEL
    sizes = (setup.threads, setup.max_num_seqs, setup.max_num_tokens, MAX_BATCHED_TOKENS)
    process = subprocess.Popen(
        ["node", str(_SCRIPT), str(modules), str(model), *map(str, sizes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    questions, answers = process.stdin, process.stdout
    if not answers.readline():
        raise RuntimeError("node-llama-cpp does not load the model")

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        questions.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        questions.flush()
        line = answers.readline()
        if not line:
            raise RuntimeError(f"node-llama-cpp ended with {process.wait()}")
        return Timeline(**json.loads(line))

    return run


def modules_folder() -> Path:
    """Return where npm's modules are kept, which may not be there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "infermesh" / "peers" / f"node-llama-cpp-{VERSION}" / "node_modules"


def _modules(cpu: str | None) -> Path:
    """Return a folder of npm's modules, installed once, with one kind of processor's library."""
    whole = modules_folder()
    home = whole.parent
    if not (whole / _LIBRARIES).is_dir():
        home.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        command += ["--prefix", str(home), f"node-llama-cpp@{VERSION}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if cpu is None:
        return whole
    lowered = home.with_name(f"{home.name}-{cpu}") / "node_modules"
    if not lowered.is_dir():
        shutil.copytree(whole, lowered, symlinks=True)
        for path in (lowered / _LIBRARIES).glob("libggml-cpu-*.so"):
            if path.stem != f"libggml-cpu-{cpu}":
                path.unlink()
    return lowered


if __name__ == "__main__":
    serve(load, ("gguf",), prepare)
