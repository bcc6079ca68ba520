"""Our engine over random weights of a shape: no checkpoint, only its configuration on disk."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.common.random_weights import RandomWeights
from bench.gpu.engine.floor import kv_bytes_per_token
from services.generator.engine import Engine, EngineConfig
from services.generator.loading import load_engine

MAX_BATCHED_TOKENS = 8192
BLOCK_SIZE = 16
# of what the weights leave free; the rest is for activations and recordings
KV_SHARE = 0.8


def load_random_engine(
    config: Mapping[str, Any],
    *,
    device: str,
    max_num_seqs: int,
    num_tokens: int,
    dtype: str = "bfloat16",
    weights_on: str | None = None,
    max_batched_tokens: int = MAX_BATCHED_TOKENS,
) -> Engine:
    """Return an engine with room for `num_tokens` of all sequences, or for what memory allows.

    `weights_on` is where the weights are made, the same values on each kind of device alone; None
    makes them on `device`. Raises what the engine raises.
    """
    kind = getattr(torch, dtype)
    weights = RandomWeights(config, weights_on or device, kind)
    blocks = -(-num_tokens // BLOCK_SIZE) + max_num_seqs
    kv_bytes = blocks * BLOCK_SIZE * kv_bytes_per_token(config, kind.itemsize)
    if device != "cpu":
        free, _ = torch.cuda.mem_get_info()
        left = free - weights.num_parameters * kind.itemsize
        kv_bytes = min(kv_bytes, max(int(KV_SHARE * left), 1))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(dict(config)))
        return load_engine(
            EngineConfig(
                Path(scratch),
                dtype=dtype,
                device=device,
                max_num_seqs=max_num_seqs,
                max_batched_tokens=max(max_batched_tokens, max_num_seqs),
                block_size=BLOCK_SIZE,
                kv_cache_bytes=kv_bytes,
            ),
            weights=weights,
        )
