"""The mean of two models."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.mean import mean


def test_every_weight_is_half_way(tmp_path: Path) -> None:
    """And the other files are the second model's."""
    for name, value in (("one", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((3,), value)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(name)
    mean(tmp_path / "one", tmp_path / "other", tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [1.5] * 3
    assert (tmp_path / "out" / "config.json").read_text() == "other"
