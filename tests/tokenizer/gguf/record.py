"""Record what llama.cpp makes of the odd strings, or show where the tokenizer differs.

    npm install --ignore-scripts --prefix FOLDER node-llama-cpp
    python -m tests.tokenizer.gguf.record FOLDER/node_modules [NAME ...] [--show]

NAME is one of the record's (all, if none is given). With `--show` nothing is recorded: the strings
whose ids differ are printed.
"""

import argparse
import tempfile
from pathlib import Path

from tests.tokenizer.gguf.cases import CASES, Case, our_ids
from tests.tokenizer.gguf.expected import Expected, digests, expected, write
from tests.tokenizer.gguf.families import FAMILIES, Family
from tests.tokenizer.gguf.llama_cpp import tokenized
from tests.tokenizer.gguf.vocabularies import write_vocabulary

_MOST_SHOWN = 5


def main() -> None:
    """Run it: `--help` says how."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    record = expected() if args.names and not args.show else {}
    for name in args.names or CASES:
        record[name] = _recorded(args.modules, CASES[name], args.show)
        print(name, *record[name].digests[:2], flush=True)
    if not args.show:
        families = FAMILIES.items()
        write(record, {name: _ends(args.modules, family) for name, family in families})


def _recorded(modules: Path, case: Case, is_shown: bool) -> Expected:
    texts, metadata = case.strings(), case.metadata()
    with tempfile.TemporaryDirectory() as folder:
        path = write_vocabulary(Path(folder) / "model.gguf", metadata)
        theirs = tokenized(modules, path, texts)
    if is_shown:
        _show(texts, our_ids(metadata, texts), theirs.ids)
    return Expected(theirs.adds_bos, digests(theirs.ids))


def _ends(modules: Path, family: Family) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_vocabulary(Path(folder) / "model.gguf", family.metadata())
        return family.names(tokenized(modules, path, []).end_ids)


def _show(texts: list[str], ours: list[list[int]], theirs: list[list[int]]) -> None:
    differing = [each for each in zip(texts, ours, theirs, strict=True) if each[1] != each[2]]
    print(f"{len(differing)} of {len(texts)} differ")
    for text, own, other in sorted(differing, key=lambda each: len(each[0]))[:_MOST_SHOWN]:
        print(f"  {text!a}\n    ours      {own}\n    llama.cpp {other}")


if __name__ == "__main__":
    main()
