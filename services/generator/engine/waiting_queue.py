"""Requests that wait for their first step, or for another turn after a preemption."""

from __future__ import annotations

import operator

from mesh.fair_queue import FairQueue
from services.generator.engine.request import Request


class WaitingQueue(FairQueue[Request]):
    """Requests in the order in which they would start, and their prompts' length together."""

    def __init__(self) -> None:
        super().__init__(operator.attrgetter("ticket"))
        self.num_prompt_tokens = 0

    def add(self, request: Request) -> None:
        """Let a request wait; a preempted one comes before the others of its tenant."""
        super().add(request)
        self.num_prompt_tokens += request.num_prompt_tokens

    def remove(self, request: Request) -> None:
        """Take out a request that ends without having started."""
        super().remove(request)
        self.num_prompt_tokens -= request.num_prompt_tokens

    def take(self, request: Request) -> None:
        """Take out a request that starts."""
        super().take(request)
        self.num_prompt_tokens -= request.num_prompt_tokens
