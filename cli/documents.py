"""Documents in files, and the names that tell them apart in a collection."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# the gateway reads the encoding from the bytes: nobody here knows it
MEDIA_TYPES = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}
KINDS = " ".join(MEDIA_TYPES)


class Document(NamedTuple):
    """A file and the name that citations will show, its identity in the collection."""

    path: Path
    source: str


class NameClashError(Exception):
    """Two files would have one name: the later would replace the earlier."""


class _Root(NamedTuple):
    """A path as it was given: a folder, or a file of its own."""

    path: Path
    is_folder: bool

    def label(self, num_parts: int) -> str:
        """Return the last parts of its full path, at most all of them."""
        parts = self.path.resolve().parts[1:]
        return "/".join(parts[max(0, len(parts) - num_parts) :])


def find(paths: Iterable[Path]) -> tuple[list[Document], list[str]]:
    """Return the documents below these paths, and a line for each path that is none.

    A file is called by its name, one in a folder by its path there; where several paths are given,
    behind the folder's name. Paths of one name are told apart by the folders above them. Below a
    folder, hidden files and other kinds of files are passed over. Raises NameClashError.
    """
    failures: list[str] = []
    given = [root for path in paths if (root := _root(path, failures)) is not None]
    roots = list({root.path.resolve(): root for root in reversed(given)}.values())[::-1]
    labels = _labels(roots)
    documents: dict[Path, Document] = {}
    for root, label in zip(roots, labels, strict=True):
        for file in _files(root, failures):
            below = file.relative_to(root.path).as_posix() if root.is_folder else ""
            document = Document(file, "/".join(filter(None, (label, below))))
            if _is_utf8(document.source):
                documents.setdefault(file.resolve(), document)
            else:
                failures.append(f"{shown(file)}: its name is not UTF-8")
    _check_names(documents.values())
    return list(documents.values()), failures


def shown(value: object) -> str:
    """Return a text that any terminal can show: bytes that are no UTF-8 are escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _root(path: Path, failures: list[str]) -> _Root | None:
    if path.is_dir():
        return _Root(path, True)
    if not path.is_file():
        failures.append(f"{shown(path)}: no such file or folder")
    elif path.suffix.lower() not in MEDIA_TYPES:
        failures.append(f"{shown(path)}: not one of {KINDS}")
    else:
        return _Root(path, False)
    return None


def _labels(roots: list[_Root]) -> list[str]:
    """Return what each root's names begin with: as few parts of its path as tell them apart.

    They depend on what is given, not on what is in it: another run gives the same names.
    """
    if len(roots) == 1 and roots[0].is_folder:
        return [""]
    lengths = [1 for _ in roots]
    full_paths = [root.path.resolve() for root in roots]
    while True:
        labels = [root.label(length) for root, length in zip(roots, lengths, strict=True)]
        by_label: dict[str, set[Path]] = {}
        for label, path in zip(labels, full_paths, strict=True):
            by_label.setdefault(label, set()).add(path)
        longer = [
            length + (len(by_label[label]) > 1)
            for length, label in zip(lengths, labels, strict=True)
        ]
        if longer == lengths:
            return labels
        lengths = longer


def _files(root: _Root, failures: list[str]) -> Iterator[Path]:
    if not root.is_folder:
        yield root.path
        return

    def cannot_list(error: OSError) -> None:
        failures.append(f"{shown(error.filename)}: {error.strerror}")

    for folder, folders, names in os.walk(root.path, onerror=cannot_list):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in MEDIA_TYPES and path.is_file():
                yield path


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_names(documents: Iterable[Document]) -> None:
    by_source: dict[str, Document] = {}
    for document in documents:
        other = by_source.setdefault(document.source, document)
        if other is not document:
            raise NameClashError(
                f"{shown(other.path)} and {shown(document.path)} would both be called "
                f"{document.source}; nothing was sent"
            )
