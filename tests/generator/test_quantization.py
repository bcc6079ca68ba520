"""What int8 costs the bundled model."""

from bench.quantization import BUNDLED, held_out, perplexity


def test_int8_loses_less_than_a_hundredth() -> None:
    """Perplexity on held-out documents, of all tokens and of the replies' alone."""
    documents = held_out(BUNDLED, 16)
    plain, rounded = (perplexity(BUNDLED, one, documents) for one in (None, "int8"))
    assert 1.0 < plain.overall < 100.0
    assert rounded.overall / plain.overall < 1.01
    assert rounded.replies / plain.replies < 1.01
