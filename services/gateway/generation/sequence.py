"""One sequence in flight, from its submission to its one outcome."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mesh.errors import MeshError
from mesh.mailbox import Mailbox
from services.gateway.domain.generation import (
    GenerationRequest,
    TextDelta,
    Timings,
    TokenLogprobs,
    TokenPiece,
    Usage,
)
from services.gateway.generation.detokenized import Text
from services.gateway.generation.job import Job
from services.gateway.generation.wire import Delta, End, Start


@dataclass(slots=True, eq=False)
class SequenceInFlight:
    """What its reader has not taken yet, how it began and how it ended.

    Its replica may run on where a stop string has ended its text: then the start is all that is
    known of cached tokens and times. `first_token_s` is when it came, monotonic; `is_stopped` is
    true once a stop string was found.
    """

    job: Job
    request: GenerationRequest
    headers: Mapping[str, str]
    deadline_unix_ms: int
    # bounded by its tokens: each text has one at least
    texts: Mailbox[TextDelta] = field(default_factory=Mailbox)
    logprobs: deque[TokenLogprobs] = field(default_factory=deque)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    start: Start | None = None
    first_token_s: float = 0.0
    end: End | None = None
    is_stopped: bool = False
    num_beams: int = 1

    def fail(self, error: MeshError) -> None:
        """End it by its first error."""
        self.texts.fail(error)

    def take(self, delta: Delta) -> None:
        """Take what its replica says of new tokens beside their ids."""
        if delta.start is not None:
            self.start, self.first_token_s = delta.start, time.monotonic()
        self.logprobs.extend(delta.logprobs)
        if delta.prompt_logprobs:
            self.prompt_logprobs = delta.prompt_logprobs

    def add_text(self, text: Text) -> None:
        """Take text that came back from the tokenizer; the last of it closes the sequence."""
        delta = TextDelta(
            text.text,
            text.num_tokens,
            logprobs=self._described(text.tokens) if text.tokens else (),
            prompt_logprobs=self.prompt_logprobs,
        )
        self.prompt_logprobs = ()
        self.is_stopped = text.stopped
        self.texts.put(self._ended(delta, stopped=text.stopped) if text.final else delta)

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

    def _described(self, tokens: Sequence[TokenPiece]) -> tuple[TokenLogprobs, ...]:
        """Take the log-probabilities of the next tokens, each with what it adds to the text."""
        count = min(len(tokens), len(self.logprobs))
        return tuple(replace(self.logprobs.popleft(), piece=piece) for piece in tokens[:count])

    def _ended(self, delta: TextDelta, *, stopped: bool) -> TextDelta:
        """Return the last delta: of the end that its replica told, or of a stop string."""
        end = self.end
        if end is not None and not stopped:
            return replace(
                delta, finish_reason=end.finish_reason, usage=end.usage, timings=end.timings
            )
        usage = Usage(self.job.num_prompt_tokens, delta.num_tokens, self._num_cached_tokens())
        if end is not None and self.request.sampling.is_beam_search:
            # a stop string cuts what was found: all of it was generated
            usage = end.usage or usage
        timings = self._timings_so_far() if end is None else end.timings
        return replace(delta, finish_reason="stop", usage=usage, timings=timings)

    def _num_cached_tokens(self) -> int:
        if self.end is not None and self.end.usage is not None:
            return self.end.usage.cached_prompt_tokens
        return 0 if self.start is None else self.start.num_cached_tokens

    def _timings_so_far(self) -> Timings | None:
        """Return the times up to now; None where an older replica did not tell how it began."""
        if self.start is None:
            return None
        decode_s = time.monotonic() - self.first_token_s
        return Timings(self.start.queue_s, self.start.prefill_s, decode_s)


def beam_id(job_id: str, index: int) -> str:
    """Return the detokenizer's id of a job's result."""
    return job_id if index == 0 else f"{job_id}/{index}"
