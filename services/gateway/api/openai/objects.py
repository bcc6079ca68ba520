"""Parts that OpenAI's response objects share."""

import time
from collections.abc import Iterable
from typing import Any

from services.gateway.domain.documents import Passage
from services.gateway.domain.generation import Model, Usage


def identity(prefix: str, request_id: str, model: Model) -> dict[str, Any]:
    """Return the fields that name an answer, for its body or for each of its chunks."""
    return {
        "id": prefix + request_id,
        "created": int(time.time()),
        "model": model.id,
        "system_fingerprint": "fp_" + model.revision[:10],
    }


def usage_counts(usage: Usage) -> dict[str, Any]:
    """Return the field `usage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
    }


def citations(passages: Iterable[Passage]) -> list[dict[str, Any]]:
    """Return the field `citations`, in the order of the prompt's numbers."""
    return [
        {"id": p.id, "source": p.source, "score": p.score, "start": p.start, "end": p.end}
        for p in passages
    ]
