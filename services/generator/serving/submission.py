"""A request for the engine, and what the engine's thread does with it between two steps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.generator.engine import (
    Engine,
    FinishReason,
    QueueFullError,
    Refusal,
    RequestError,
    SamplingParams,
    StepOutput,
    sequence_id,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request for the engine; `deadline` is on the monotonic clock, in seconds."""

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    deadline: float
    cache_salt: str = ""
    priority: int = 0
    tenant: str = ""

    @property
    def sequence_ids(self) -> tuple[str, ...]:
        """The ids under which its outputs come, each with an outcome."""
        return tuple(
            sequence_id(self.request_id, index) for index in range(self.params.num_outcomes)
        )

    def add_to(self, engine: Engine) -> list[StepOutput]:
        """Return the only outputs of sequences that the engine does not take."""
        try:
            engine.add(
                self.request_id,
                self.prompt_token_ids,
                self.params,
                cache_salt=self.cache_salt,
                priority=self.priority,
                deadline=self.deadline,
                tenant=self.tenant,
            )
        except QueueFullError as error:
            logger.warning("refused %s: %s", self.request_id, error)
            refusal = Refusal(error.limit, error.expected_wait_s)
            return self._ended(FinishReason.REJECTED, refusal)
        except RequestError as error:
            logger.warning("refused %s: %s", self.request_id, error)
            return self._ended(FinishReason.ERROR)
        except Exception as fault:
            return [*self._ended(FinishReason.ERROR), *engine.recover(fault)]
        return []

    def _ended(self, reason: FinishReason, refusal: Refusal | None = None) -> list[StepOutput]:
        num_prompt_tokens = len(self.prompt_token_ids)
        return [
            StepOutput(one_id, (), reason, num_prompt_tokens, 0, 0, refusal=refusal)
            for one_id in self.sequence_ids
        ]


def abort(
    engine: Engine, request_id: str, reason: FinishReason = FinishReason.ABORT
) -> list[StepOutput]:
    """End a sequence; return its last output, or none where it has ended already."""
    try:
        output = engine.abort(request_id, reason)
    except Exception as fault:
        return engine.recover(fault)
    return [] if output is None else [output]
