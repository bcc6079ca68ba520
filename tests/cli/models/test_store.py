"""Where pulled models are kept."""

from pathlib import Path

import pytest

from cli.models.store import StoreError, default_folder


def test_the_folder_is_below_the_users_cache() -> None:
    """Unless the environment says another; who has none is told what to set."""
    assert default_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/infermesh/models")
    assert default_folder({"INFERMESH_MODELS": "/m", "XDG_CACHE_HOME": "/c"}) == Path("/m")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "home", homeless)
        with pytest.raises(StoreError, match="set INFERMESH_MODELS"):
            default_folder({})


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")
