"""Hundreds of random requests through the engine and a real model; `make soak` runs thousands."""

from pathlib import Path

from bench.soak import soak
from services.generator.engine import EngineConfig, FinishReason
from services.generator.loading import load_engine

TINY = Path(__file__).parents[3] / "models" / "infermesh-tiny"


def test_everything_adds_up_after_many_random_requests() -> None:
    """All blocks return, each admission has one outcome, and the ways to end all occurred."""
    config = EngineConfig(
        TINY, max_num_seqs=16, max_batched_tokens=256, kv_cache_bytes=6 * 2**20, seed=0
    )
    stats = soak(load_engine(config), 200, seed=1, tell=lambda line: None).stats
    assert stats.num_preemptions > 0
    assert stats.num_prefix_hit_tokens > 0
    assert {FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT} <= stats.outcomes.keys()
