"""The whole benchmark, shortened, on a real stack."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_quick_run_writes_figures_of_its_level(tmp_path: Path) -> None:
    """Nothing fails, nothing comes from a cache, and every service's processor time is told."""
    output = tmp_path / "service.json"
    command = [sys.executable, "-m", "bench.service", "--quick", "--ignore-eos"]
    subprocess.run([*command, "--output", str(output)], cwd=ROOT, check=True, timeout=120)
    ((level, result),) = json.loads(output.read_text()).items()
    assert result["level"] == level
    runs = [*result["rates"], *result["concurrency"], *result["search"]]
    assert len(runs) == 4
    for run in runs:
        assert run["num_requests"] > 0 and run["failures"] == {}
        assert run["cached_share"] == run["num_cache_hits"] == 0
        assert run["tokens_per_request"] == 24
        assert 0 < run["ttft_p50_s"] <= run["ttft_p99_s"]
        assert {"gateway", "tokenizer", "cache", "generator"} <= run["cpu_ms_per_request"].keys()
