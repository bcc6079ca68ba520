"""Record what llama.cpp makes of the odd strings: one hash of all ids for each vocabulary.

    npm install --ignore-scripts node-llama-cpp
    python -m tests.tokenizer.gguf.record NODE_MODULES

For the chat model's vocabulary under each pre-tokenizer's name, and for SentencePiece's.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mesh.gguf import GGUFFile
from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS
from tests.tokenizer.gguf.expected import RECORD, digest
from tests.tokenizer.gguf.odd_strings import odd_strings
from tests.tokenizer.gguf.vocabularies import (
    chat_model,
    sentence_piece_vocabulary,
    write_vocabulary,
)

_SCRIPT = """
import {getLlama} from "%s/node-llama-cpp/dist/index.js";
import fs from "fs";
const llama = await getLlama({build: "never", gpu: false, progressLogs: false, logLevel: "error"});
const model = await llama.loadModel({modelPath: process.argv[2], vocabOnly: true, gpuLayers: 0});
const texts = JSON.parse(fs.readFileSync(process.argv[3]));
const ids = texts.map((text) => Array.from(model.tokenize(text, true)));
fs.writeFileSync(process.argv[4], JSON.stringify(ids));
process.exit(0);
"""


def main() -> None:
    """Write the record."""
    modules, texts = Path(sys.argv[1]).resolve(), odd_strings()
    with tempfile.TemporaryDirectory() as folder:
        record = {}
        for name, metadata in _vocabularies():
            path = write_vocabulary(Path(folder) / f"{name}.gguf", metadata)
            record[name] = digest(llama_cpp_ids(modules, path, texts, Path(folder)))
            print(name, record[name], flush=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def _vocabularies() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "sentence-piece", sentence_piece_vocabulary(adds_blank=True)
    yield "sentence-piece-without-blank", sentence_piece_vocabulary(adds_blank=False)
    model = chat_model()
    assert model is not None, "infermesh pull smollm2-135m-instruct"
    metadata = dict(GGUFFile.read(model).metadata)
    kept = {
        name: value
        for name, value in metadata.items()
        if name.startswith("tokenizer.ggml") or name == "general.architecture"
    }
    kept["llama.context_length"] = 128
    for name in PRE_TOKENIZERS:
        yield name, kept | {"tokenizer.ggml.pre": name}


def llama_cpp_ids(
    modules: Path, model: Path, texts: Sequence[str], scratch: Path
) -> list[list[int]]:
    """Return the ids that node-llama-cpp, in a folder of npm's modules, gives texts."""
    script = scratch / "tokenize.mjs"
    script.write_text(_SCRIPT % modules)
    given, output = scratch / f"{model.stem}.texts", scratch / f"{model.stem}.ids"
    given.write_text(json.dumps(texts))
    command = ["node", str(script), str(model), str(given), str(output)]
    # it complains of missing tensors first, then takes the vocabulary alone
    subprocess.run(command, capture_output=True, check=True)
    ids: list[list[int]] = json.loads(output.read_text())
    return ids


if __name__ == "__main__":
    main()
