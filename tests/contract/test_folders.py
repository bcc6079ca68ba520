"""A folder is small enough to be read, and the tests lie as the source does."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
MOST_FILES = 20
# generated, and collected: nobody reads them from top to bottom
UNCOUNTED = ("mesh/pb", "bench/results")
# folders under tests whose subject is no folder
WITHOUT_COUNTERPART = {
    "contract": "rules of the repository as a whole",
    "e2e": "the running stack",
}


def source_of(folder: Path) -> Path:
    """Return the folder that a folder of tests is about."""
    name = folder.relative_to(TESTS)
    at_top = ROOT / name.parts[0]
    return ROOT / name if at_top.is_dir() else ROOT / "services" / name


def folders_under(*trees: str) -> list[Path]:
    """Return the folders of these trees, themselves included, without what Python writes."""
    found = [path for tree in trees for path in ((ROOT / tree), *(ROOT / tree).rglob("*"))]
    return sorted(path for path in found if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize("tree", ["services", "mesh", "cli", "bench"])
def test_no_folder_is_a_warehouse(tree: str) -> None:
    """At most MOST_FILES files lie side by side."""
    counts = {
        str(folder.relative_to(ROOT)): sum(path.is_file() for path in folder.iterdir())
        for folder in folders_under(tree)
    }
    assert {
        name: count
        for name, count in counts.items()
        if count > MOST_FILES and name not in UNCOUNTED
    } == {}


def test_tests_mirror_the_tree() -> None:
    """A folder with tests is named after the folder that it tests."""
    folders = {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}
    subjects = {
        folder: source_of(folder)
        for folder in folders
        if folder.relative_to(TESTS).parts[0] not in WITHOUT_COUNTERPART
    }
    strays = {str(folder.relative_to(ROOT)) for folder, at in subjects.items() if not at.is_dir()}
    assert sorted(strays) == []


def test_the_exceptions_are_folders() -> None:
    """What is excused is there, and has no counterpart."""
    for name in WITHOUT_COUNTERPART:
        assert (TESTS / name).is_dir()
        assert not source_of(TESTS / name).is_dir()
    assert all((ROOT / name).is_dir() for name in UNCOUNTED)
