"""Weights on disk: one file, shards, and what may be wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.generator.model.checkpoint.safetensors import Checkpoint
from services.generator.model.errors import ModelConfigError, WeightError
from tests.generator.model.conftest import save
from tests.generator.model.cpu_model import load_model
from tests.generator.model.family_models import SAMPLES
from tests.generator.model.test_families import last_logits


def split(folder: Path) -> None:
    """Turn a single file into two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_shards_hold_what_one_file_held(make_llama: Callable) -> None:
    """Each tensor is found in its shard."""
    _, folder = make_llama()
    single = load_file(folder / "model.safetensors")
    split(folder)
    checkpoint = Checkpoint(folder)
    assert "model.norm.weight" in checkpoint
    for name, tensor in single.items():
        assert torch.equal(checkpoint.tensor(name, *tensor.shape), tensor)


def test_shards_of_transformers_give_the_same_logits(make_llama: Callable, tmp_path: Path) -> None:
    """A checkpoint that transformers cut into shards computes bit for bit what one file does."""
    model, folder = make_llama()
    token_ids = [5, 6, 7, 8]
    whole = last_logits(load_model(folder), token_ids, (4,))
    sharded = tmp_path / "sharded"
    model.save_pretrained(sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert not (sharded / "model.safetensors").exists()
    assert torch.equal(last_logits(load_model(sharded), token_ids, (4,)), whole)


def test_a_missing_shard_is_named(make_llama: Callable) -> None:
    """An interrupted download is refused with the name of the file that is not there."""
    _, folder = make_llama()
    split(folder)
    (folder / "two.safetensors").unlink()
    with pytest.raises(WeightError, match="cannot be read") as caught:
        load_model(folder)
    assert caught.value.field == "two.safetensors"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": [1]}'])
def test_an_unusable_index_is_named(make_llama: Callable, content: str) -> None:
    """A cut or foreign index is refused by its name."""
    _, folder = make_llama()
    split(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightError) as caught:
        load_model(folder)
    assert caught.value.field == "model.safetensors.index.json"


def test_tensors_are_mapped_not_copied(make_llama: Callable) -> None:
    """The pages of a tensor are the file's: no second copy of the weights is in memory."""
    _, folder = make_llama()
    name = "model.embed_tokens.weight"
    first = Checkpoint(folder).tensor(name, 89, 48)
    with (folder / "model.safetensors").open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        start = json.loads(file.read(size))[name]["data_offsets"][0]
        file.seek(8 + size + start)
        file.write(torch.tensor([123.0]).numpy().tobytes())
    assert first[0, 0] == 123.0


def test_float16_files_are_read_exactly(make_llama: Callable) -> None:
    """Half-precision weights give the logits of their float32 image, from the same tokens."""
    model, folder = make_llama()
    model.half().save_pretrained(folder)
    assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype is torch.float16
    half = last_logits(load_model(folder), [5, 6, 7], (3,))
    model.float().save_pretrained(folder)
    assert torch.equal(half, last_logits(load_model(folder), [5, 6, 7], (3,)))


def test_a_missing_tensor_is_named(make_llama: Callable) -> None:
    """An untied head that is absent is an error, not a tied one."""
    _, folder = make_llama()
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightError, match="missing") as caught:
        load_model(folder)
    assert caught.value.field == "lm_head.weight"


def test_another_shape_is_named(make_llama: Callable) -> None:
    """A tensor that contradicts the configuration is refused with both shapes."""
    _, folder = make_llama()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(47)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightError, match=r"\(47,\), expected \(48,\)"):
        load_model(folder)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_an_unreadable_file_is_named(make_llama: Callable, content: bytes | None) -> None:
    """An absent, empty or foreign file is refused by its name."""
    _, folder = make_llama()
    path = folder / "model.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightError) as caught:
        load_model(folder)
    assert caught.value.field == "model.safetensors"


def test_an_unknown_dtype_is_named(make_llama: Callable) -> None:
    """The override is checked like the checkpoint's own dtype."""
    _, folder = make_llama()
    with pytest.raises(ModelConfigError, match="dtype"):
        load_model(folder, "float8")


def test_a_checkpoint_without_its_head(tmp_path: Path) -> None:
    """GPT-2's own file was saved from the bare model: its tensors have no root, and no head."""
    model = SAMPLES["gpt2"].build()
    save(model, tmp_path)
    whole = load_model(tmp_path)
    model.transformer.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"architectures": ["GPT2LMHeadModel"]}))
    assert "wte.weight" in Checkpoint(tmp_path)
    token_ids = [5, 6, 7]
    assert torch.equal(*(last_logits(m, token_ids, (3,)) for m in (whole, load_model(tmp_path))))
