"""Names of models: short ones of the catalogue, and those of the hub; which folder is whose."""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

# as the hub has them: `--` and `..` are none of theirs, which leaves `--` for a folder's `/`
_PART = r"(?!.*(?:--|\.\.))\w(?:[\w.-]*\w)?"
_SHORT = re.compile(_PART, re.ASCII)
_REPO = re.compile(rf"{_PART}/{_PART}(?<!\.git)", re.ASCII)
_MOST_REPO_CHARACTERS = 96
# of a file's name 255 bytes, less the dots and the ending of what is not whole yet
_MOST_FOLDER_BYTES = 240
_SYNTAX = (
    "ORG and NAME take up to 96 letters, digits, `-`, `_` and `.`, no `--` or `..`;"
    " FILE a path that ends in .gguf, no part of which begins with a dot"
)


class BadNameError(ValueError):
    """A name that no model can have; the message names it and says what one looks like."""


class Reference(NamedTuple):
    """`ORG/NAME` of the hub, or one of its GGUF files."""

    repo: str
    file: str | None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Return what a name means; raises BadNameError where it is no reference to the hub."""
        repo, colon, file = text.partition(":")
        reference = cls(repo, file if colon else None)
        is_repo = _REPO.fullmatch(repo) is not None and len(repo) <= _MOST_REPO_CHARACTERS
        is_file = is_safe_path(file) and file.endswith(".gguf")
        if not is_repo or (colon and not is_file):
            problem = f"is no model's name, which is ORG/NAME or ORG/NAME:FILE.gguf: {_SYNTAX}"
            raise BadNameError(f"{text!r} {problem}")
        if len(reference.folder) > _MOST_FOLDER_BYTES:
            raise BadNameError(f"{text!r} is too long for a folder's name")
        return reference

    @property
    def folder(self) -> str:
        """The name of its folder, which is no other's: see `name_of`."""
        folder = self.repo.replace("/", "--")
        return folder if self.file is None else f"{folder}@{quote(self.file, safe='')}"

    def __str__(self) -> str:
        return self.repo if self.file is None else f"{self.repo}:{self.file}"


def is_safe_path(file: str) -> bool:
    """Return whether a path of a repository leads out of no folder and can be printed."""
    parts = file.split("/")
    return file.isprintable() and all(part and not part.startswith(".") for part in parts)


def folder_of(name: str) -> str:
    """Return the name of a model's folder; raises BadNameError."""
    if "/" in name or ":" in name:
        return Reference.parse(name).folder
    if _SHORT.fullmatch(name) is None or len(name) > _MOST_FOLDER_BYTES:
        raise BadNameError(f"{name!r} is no model's name: neither of the catalogue nor ORG/NAME")
    return name


def name_of(folder: str) -> str | None:
    """Return the name whose folder this is, None where no name has it."""
    repo, at, file = folder.partition("@")
    name = repo.replace("--", "/") + (f":{unquote(file)}" if at else "")
    try:
        return name if folder_of(name) == folder else None
    except BadNameError:
        return None
