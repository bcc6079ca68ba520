"""Folders that are made once."""

from pathlib import Path

import pytest

from bench.peers.cached_folder import cached_folder


def test_a_folder_is_made_once_for_a_recipe(tmp_path: Path) -> None:
    """The same recipe finds the folder as it is; another empties it and makes it anew."""
    folder, made_for = tmp_path / "thing", []
    for recipe in ("a", "a", "b"):
        cached_folder(folder, recipe, lambda recipe=recipe: made_for.append(recipe))
        (folder / f"kept-{recipe}").touch()
    assert made_for == ["a", "b"]
    assert not (folder / "kept-a").exists()


def test_what_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    """A folder whose making failed does not count as made."""

    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        cached_folder(tmp_path / "thing", "a", fail)
    calls: list[str] = []
    cached_folder(tmp_path / "thing", "a", lambda: calls.append("made"))
    assert calls == ["made"]
