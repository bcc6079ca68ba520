"""One sequence in flight, from its submission to its one outcome."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mesh.errors import MeshError
from mesh.mailbox import Mailbox
from services.gateway.domain.generation import GenerationRequest, TextDelta, TokenLogprobs, Usage
from services.gateway.generation.detokenizer import Text
from services.gateway.generation.job import Job
from services.gateway.generation.wire import End


@dataclass(slots=True, eq=False)
class SequenceInFlight:
    """What its reader has not taken yet, and how it ended."""

    job: Job
    request: GenerationRequest
    headers: Mapping[str, str]
    deadline_unix_ms: int
    # bounded by its tokens: each text has one at least
    texts: Mailbox[TextDelta] = field(default_factory=Mailbox)
    logprobs: deque[TokenLogprobs] = field(default_factory=deque)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    num_described: int = 0
    end: End | None = None
    num_beams: int = 1

    def fail(self, error: MeshError) -> None:
        """End it by its first error."""
        self.texts.fail(error)

    def add_text(self, text: Text) -> None:
        """Take text that came back from the tokenizer; the last of it closes the sequence."""
        end = self.end
        delta = TextDelta(
            text.text,
            text.num_tokens,
            logprobs=self._take_logprobs(text.num_tokens),
            prompt_logprobs=self.prompt_logprobs,
        )
        self.prompt_logprobs = ()
        if text.final and (text.stopped or end is None):
            usage = Usage(self.job.num_prompt_tokens, text.num_tokens)
            delta = replace(delta, finish_reason="stop", usage=usage)
        elif text.final and end is not None:
            delta = replace(
                delta, finish_reason=end.finish_reason, usage=end.usage, timings=end.timings
            )
        self.texts.put(delta)

    def add_beam_text(self, index: int, finish_reason: str, text: Text) -> None:
        """Take text of a further result of a beam search; the first has the usage of all."""
        delta = TextDelta(text.text, text.num_tokens, sequence=index)
        if text.final:
            reason = "stop" if text.stopped else finish_reason
            delta = replace(delta, finish_reason=reason, usage=Usage(0, 0))
        self.texts.put(delta)

    def text_ids(self) -> list[str]:
        """Return what the detokenizer knows the results by; the first has the job's own id."""
        return [beam_id(self.job.id, index) for index in range(self.num_beams)]

    def _take_logprobs(self, num_tokens: int) -> tuple[TokenLogprobs, ...]:
        """Take those of the answer's tokens up to there."""
        count = min(num_tokens - self.num_described, len(self.logprobs))
        self.num_described += count
        return tuple(self.logprobs.popleft() for _ in range(count))


def beam_id(job_id: str, index: int) -> str:
    """Return the detokenizer's id of a job's result."""
    return job_id if index == 0 else f"{job_id}/{index}"
