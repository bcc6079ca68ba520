"""Requests without an engine."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from services.generator.engine.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which wait for each other on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def make_request() -> Callable[..., Request]:
    num_made = 0

    def make(prompt: Sequence[int] = (1, 2, 3), **changes: object) -> Request:
        nonlocal num_made
        num_made += 1
        fields: dict[str, object] = {
            "request_id": f"r{num_made}",
            "token_ids": list(prompt),
            "params": SamplingParams(max_tokens=8),
            "seed": 0,
            "stop_token_ids": frozenset(),
            "root_hash": root_hash(""),
            "arrival_index": num_made,
            "arrival_s": 0.0,
        }
        return Request(**{**fields, **changes})  # type: ignore[arg-type]

    return make
