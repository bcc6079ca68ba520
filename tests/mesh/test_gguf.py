"""The GGUF reader against the `gguf` package's writer, and damaged files."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.gguf import TENSOR_TYPES, GGUFError, GGUFFile, find_gguf

_VALUES = {
    "a.text": "façade 😀",
    "a.count": 7,
    "a.share": 0.5,
    "a.flag": True,
    "a.words": ["", "x", "ß"],
    "a.numbers": [1, -2, 3],
}


_Q4_0 = gguf.GGMLQuantizationType.Q4_0


def write(path: Path, tensors: dict[str, np.ndarray] | None = None, **shards: int) -> bytes:
    """Arrays of bytes are taken for blocks of Q4_0."""
    writer = gguf.GGUFWriter(path, "llama", **shards)
    adders = {str: writer.add_string, int: writer.add_uint64, float: writer.add_float64}
    adders |= {bool: writer.add_bool, list: writer.add_array}
    for name, value in _VALUES.items():
        adders[type(value)](name, value)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array, raw_dtype=_Q4_0 if array.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes() if path.exists() else b""


def test_the_types_are_those_of_the_package() -> None:
    """Each type has the package's number, name, elements and bytes of a block."""
    for number, kind in TENSOR_TYPES.items():
        ours = (kind.name, kind.block_size, kind.block_bytes)
        theirs = gguf.GGMLQuantizationType(number)
        assert ours == (theirs.name, *gguf.GGML_QUANT_SIZES[theirs])


def test_metadata_and_tensors_are_read_as_written(tmp_path: Path) -> None:
    """Values of each kind come back, tensors by their torch shape and their bytes."""
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    blocks = gguf.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), _Q4_0)
    path = tmp_path / "model.gguf"
    write(path, {"table": table, "blocks": blocks})

    file = GGUFFile.read(path)

    assert {name: file.metadata[name] for name in _VALUES} == _VALUES
    assert file.tensors["table"].shape == (3, 4)
    assert bytes(file.tensors["table"].data) == table.tobytes()
    assert file.tensors["blocks"].type.name == "Q4_0"
    assert file.tensors["blocks"].shape == (2, 64)
    assert bytes(file.tensors["blocks"].data) == blocks.tobytes()


def test_split_files_are_one_model(tmp_path: Path) -> None:
    """The first file stands for all; without one of them the missing one is named."""
    tensors = {f"t{index}": np.full(8, index, np.float32) for index in range(4)}
    write(tmp_path / "model.gguf", tensors, split_max_tensors=2)
    files = sorted(tmp_path.glob("*.gguf"))
    assert len(files) == 2
    assert find_gguf(tmp_path) == files[0]

    read = GGUFFile.read(files[0]).tensors

    assert {name: bytes(tensor.data) for name, tensor in read.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }
    files[1].unlink()
    with pytest.raises(GGUFError, match=files[1].name):
        GGUFFile.read(files[0])


def test_a_folder_of_several_models_is_refused(tmp_path: Path) -> None:
    """Which one is meant cannot be known, so both are named."""
    for name in ("a.gguf", "b.gguf"):
        write(tmp_path / name)
    with pytest.raises(GGUFError, match=r"a\.gguf, b\.gguf"):
        find_gguf(tmp_path)
    assert find_gguf(tmp_path / "a.gguf") == tmp_path / "a.gguf"


def test_no_gguf_is_none(tmp_path: Path) -> None:
    """A folder or a file of another format is not a GGUF model."""
    (tmp_path / "config.json").write_text("{}")
    assert find_gguf(tmp_path) is None
    assert find_gguf(tmp_path / "config.json") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"GGML" + data[4:], "not a GGUF file"),
        (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "version 1"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "damaged"),
        (lambda data: data[:-1], "cut short"),
        (lambda data: b"", "too short"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: object, message: str) -> None:
    """What is no GGUF file, too new, or incomplete is refused in words."""
    path = tmp_path / "model.gguf"
    assert callable(change)
    path.write_bytes(change(write(path, {"t": np.zeros(8, np.float32)})))
    with pytest.raises(GGUFError, match=message):
        GGUFFile.read(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes are changed or lost, the file is read or refused."""
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    content = bytearray(write(path, {"t": np.zeros((2, 8), np.float32)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(4, len(content)))])
    try:
        GGUFFile.read(path)
    except GGUFError as error:
        assert str(error)
