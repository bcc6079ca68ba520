"""Rows of logits and greedy requests that choose from them."""

from collections.abc import Callable
from typing import Any

import torch

from services.generator.engine import SamplingParams
from services.generator.engine.request import Request

MakeRequest = Callable[..., Request]

VOCAB = 120
STOPS = frozenset({1, 2, 90})
EDITS: list[dict[str, Any]] = [
    {},
    {"logit_bias": ((7, 40.0), (3, -100.0))},
    {"bad_token_ids": (3, 5)},
    {"allowed_token_ids": (11, 60, 119, 0)},
    {"allowed_token_ids": (3, 5, 44), "bad_token_ids": (3,), "logit_bias": ((44, 30.0),)},
    {"min_tokens": 3},
    {"min_tokens": 2},
    {"repetition_penalty": 4.0},
    {"frequency_penalty": 2.0},
    {"presence_penalty": 2.0, "bad_token_ids": (3,)},
    {"repetition_penalty": 0.5, "frequency_penalty": -1.0, "presence_penalty": 0.5},
]


def greedy(make_request: MakeRequest, output: tuple[int, ...] = (), **params: Any) -> Request:
    """Make a request at temperature 0 that has this output already."""
    options = SamplingParams(max_tokens=64, temperature=0.0, **params)
    request = make_request((3, 5, 5, 8), params=options, stop_token_ids=STOPS)
    request.token_ids += output
    return request


def make_logits(rows: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Random logits of both signs without ties, also in narrow dtypes."""
    generator = torch.Generator().manual_seed(seed)
    places = [torch.randperm(VOCAB, generator=generator) - VOCAB / 2 for _ in range(rows)]
    return (torch.stack(places) / 8).to(dtype)


def favour(logits: torch.Tensor, *token_ids: int) -> torch.Tensor:
    """Let these be the best of every row, the first before the others."""
    best = torch.arange(len(token_ids), 0, -1, dtype=torch.float32)
    logits[:, list(token_ids)] = (10.0 + best).to(logits.dtype)
    return logits
