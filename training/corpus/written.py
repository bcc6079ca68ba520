"""Reads the hand-written text files of this package."""

from pathlib import Path


def sections(name: str) -> dict[str, list[str]]:
    """Return a text file's sections: words of `[name]`, with _ as space, lines of `[name:]`."""
    found: dict[str, list[str]] = {}
    entries: list[str] = []
    by_line = False
    for line in Path(__file__).with_name(name).read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            by_line = line.endswith(":]")
            entries = found.setdefault(line.strip("[:]"), [])
        else:
            entries += [line] if by_line else [word.replace("_", " ") for word in line.split()]
    return found


def pairs(lines: list[str]) -> list[tuple[list[str], list[str]]]:
    """Lines in groups: `? one | another`, then what belongs to it, each behind its mark."""
    groups: list[tuple[list[str], list[str]]] = []
    for line in lines:
        text = line[2:]
        if line.startswith("? "):
            groups.append((text.split(" | "), []))
        else:
            groups[-1][1].append(text)
    return groups
