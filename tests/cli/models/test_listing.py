"""`infermesh models`."""

import json
from pathlib import Path

import pytest

from cli.main import main
from cli.models.locate import locate
from cli.models.store import Store


def test_models_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the catalogue, here or not, and what else was pulled."""
    monkeypatch.setenv("INFERMESH_MODELS", str(tmp_path))
    names = ("org/name", "org/name:a b.gguf")
    for folder in ("org--name", "org--name@a%20b.gguf", ".org--x.partial", "org--name--a.gguf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").write_bytes(bytes(5))
    assert main(["models", "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["smollm2-135m-instruct"]["path"] is None
    assert lines["infermesh-tiny"]["path"].endswith("models/infermesh-tiny")
    assert lines["org/name"] == {
        "name": "org/name",
        "bytes": 5,
        "license": "",
        "path": str(tmp_path / "org--name"),
        "description": "",
    }
    assert [*lines][-2:] == [*names]
    for name in names:
        assert str(locate(name, Store(tmp_path)).path) == lines[name]["path"]
    assert main(["models"]) == 0
    assert "not here: infermesh pull smollm2-135m-instruct" in capsys.readouterr().out
