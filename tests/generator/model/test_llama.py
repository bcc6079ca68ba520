"""Logits against transformers'."""

from collections.abc import Callable

import pytest
import torch

from services.generator.backend.batch import build_batch
from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.model.kv_cache import KVCache
from tests.generator.model.cpu_model import load_model


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.15), ("float16", 1e-4)]
)
@pytest.mark.parametrize("cuts", [(200,), (1, 1, 198), (70, 129, 1), (128, 72)])
def test_logits_agree(
    make_llama: Callable, dtype: str, tolerance: float, cuts: tuple[int, ...]
) -> None:
    """Logits differ from the reference by at most the dtype's tolerance, however the prompt is cut.

    float16 is computed as float32, so it keeps float32's tolerance.
    """
    reference, folder = make_llama()
    model = load_model(folder, dtype)
    cache = KVCache(model.config, 16, 16, model.dtype)
    token_ids = torch.randint(0, 89, (200,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        expected = reference(torch.tensor([token_ids])).logits[0, -1]
        start = 0
        for size in cuts:
            known = token_ids[: start + size]
            request = Request("r", known, SamplingParams(), 0, frozenset(), root_hash(""), 0, 0.0)
            request.block_ids = list(range(13))
            batch = build_batch([Chunk(request, start, size)], 16)
            logits = model.forward(
                batch.token_ids, batch.positions, batch.tables, cache, batch.sample_rows
            )
            start += size
    scale = expected.abs().max().clamp(min=1.0) if dtype == "bfloat16" else 1.0
    assert (logits[0].float() - expected).abs().max() / scale < tolerance
