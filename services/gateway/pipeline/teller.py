"""What the caller is told of the text that comes."""

import dataclasses

from services.gateway.domain.generation import Answer, TextDelta, Usage
from services.gateway.pipeline.plan import Choice, Plan


class Teller:
    """Turns the deltas of a plan's runs into those of its answer."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._begun: set[int] = set()

    def told(self, choice: Choice, delta: TextDelta) -> TextDelta:
        """Return what is told of a choice's next delta: of a prompt alone, its end and scores."""
        if self._plan.prompt_only:
            return _without_text(delta)
        if choice.index in self._begun:
            return delta
        self._begun.add(choice.index)
        if not self._plan.answer_start:
            return delta
        return dataclasses.replace(delta, text=self._plan.answer_start + delta.text)


def whole(answer: Answer) -> TextDelta:
    """Return a whole answer as the one delta of its sequence."""
    tokens = answer.usage.completion_tokens
    return TextDelta(answer.text, tokens, answer.finish_reason, answer.usage)


def _without_text(delta: TextDelta) -> TextDelta:
    told = TextDelta("", prompt_logprobs=delta.prompt_logprobs, sequence=delta.sequence)
    if delta.finish_reason is None:
        return told
    usage = dataclasses.replace(delta.usage or Usage(0, 0), completion_tokens=0)
    return dataclasses.replace(told, finish_reason="length", usage=usage, timings=delta.timings)
