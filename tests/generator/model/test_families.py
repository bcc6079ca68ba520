"""Each family against transformers in fp32: tokens under every schedule, and logits."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from services.generator.backend.batch import build_batch
from services.generator.engine import EngineConfig
from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.loading import load_engine
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache, block_bytes
from tests.generator.model.conftest import save
from tests.generator.model.cpu_model import load_model
from tests.generator.model.family_models import SAMPLES
from tests.generator.model.test_parity import generate, make_prompts, reference

COUNT = 14
LENGTHS = (17, 20, 33, 70)  # from below the window to far above it


class Case(NamedTuple):
    """A reference model, where it is saved, and what it makes of the prompts."""

    model: Any
    folder: Path
    prompts: list[list[int]]
    expected: list[list[int]]


@pytest.fixture(scope="module", params=SAMPLES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = SAMPLES[request.param].build()
    folder = tmp_path_factory.mktemp(request.param)
    save(model, folder)
    prompts = make_prompts(89, LENGTHS)
    return Case(model, folder, prompts, reference(model, prompts, COUNT))


def test_alone_and_with_prefix_hits(case: Case) -> None:
    """One request at a time, and again from its cached prefix."""
    engine = load_engine(EngineConfig(case.folder))
    for _ in range(2):
        assert [generate(engine, [prompt], COUNT)[0] for prompt in case.prompts] == case.expected
    assert engine.stats().num_prefix_hit_tokens > 64


@pytest.mark.parametrize("max_batched_tokens", [9, 50, 512])
def test_batched_at_every_chunk_size(case: Case, max_batched_tokens: int) -> None:
    """However the prompts are cut and mixed with decodes."""
    config = EngineConfig(case.folder, max_num_seqs=8, max_batched_tokens=max_batched_tokens)
    assert generate(load_engine(config), case.prompts, COUNT) == case.expected


def test_forced_preemption(case: Case) -> None:
    """A pool that is too small for all costs time, not a single token."""
    config = load_model(case.folder).config
    num_bytes = 12 * block_bytes(config, 16, torch.float32)
    engine = load_engine(EngineConfig(case.folder, kv_cache_bytes=num_bytes, output_quantile=0.0))
    assert generate(engine, case.prompts, COUNT) == case.expected
    assert engine.stats().num_preemptions > 0


@pytest.mark.parametrize("cuts", [(200,), (30, 129, 40, 1)])
def test_logits_agree(case: Case, cuts: tuple[int, ...]) -> None:
    """In one pass, and in tiles, chunks and a decode far beyond the window."""
    model = load_model(case.folder)
    token_ids = make_prompts(89, (200,))[0]
    logits = last_logits(model, token_ids, cuts)
    with torch.inference_mode():
        expected = case.model(torch.tensor([token_ids])).logits[0, -1]
    assert (logits - expected).abs().max() < 1e-4


def last_logits(model: Decoder, token_ids: list[int], cuts: tuple[int, ...]) -> torch.Tensor:
    """Return the logits [vocab] after all tokens, computed in chunks of these sizes."""
    cache = KVCache(model.config, 16, 16, model.dtype)
    start = 0
    for size in cuts:
        known = token_ids[: start + size]
        request = Request("r", known, SamplingParams(), 0, frozenset(), root_hash(""), 0, 0.0)
        request.block_ids = list(range(15, 2, -1))
        batch = build_batch([Chunk(request, start, size)], 16)
        with torch.inference_mode():
            logits = model.forward(
                batch.token_ids, batch.positions, batch.tables, cache, batch.sample_rows
            )
        start += size
    return logits[0]
