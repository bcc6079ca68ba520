"""Sampling parameters: how one request wants its tokens chosen, and when it ends."""

import math
from dataclasses import dataclass

from services.generator.engine.errors import ParamError

MAX_LOGPROBS = 20
MAX_BIAS = 100.0
_NOT_WITH_BEAMS = "cannot be combined with a beam search"
_OFF_WITH_BEAMS: dict[str, float | None] = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "logprobs": None,
    "prompt_logprobs": None,
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Validated on construction; raises ParamError naming the first bad field.

    `temperature` 0 is greedy and makes the filters and the seed irrelevant, but not the
    processors of the logits. In which order the options work is said in `backend/sampling`, by
    `logits_processors` and `sampler`. `min_tokens` holds back every stop id. `ignore_eos` drops the
    model's own end ids only; `stop_token_ids` still stop. `include_stop_token` delivers the token
    that stopped. `allowed_token_ids` empty allows all.
    `logprobs` and `prompt_logprobs` count the alternatives beside each token; None means no
    log-probabilities. `n` sequences are answered. With a
    `beam_width` they are the best of a beam search, which draws nothing at random; 0 is off.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    beam_width: int = 0
    length_penalty: float = 1.0
    include_stop_token: bool = False

    def __post_init__(self) -> None:
        self._check_length()
        self._check_filters()
        self._check_penalties()
        self._check_token_ids()
        for field in ("logprobs", "prompt_logprobs"):
            count = getattr(self, field)
            is_counted = count is None or 0 <= count <= MAX_LOGPROBS
            _require(is_counted, field, f"must be within [0, {MAX_LOGPROBS}]")
        _require(self.n >= 1, "n", "must be at least 1")
        self._check_beam_search()

    @property
    def is_greedy(self) -> bool:
        """True when nothing is drawn at random."""
        return self.temperature == 0.0 or self.beam_width > 0

    @property
    def num_sequences(self) -> int:
        """Sequences that run side by side once the prompt is computed."""
        return max(self.n, self.beam_width)

    @property
    def truncates(self) -> bool:
        """True when unlikely tokens cannot be drawn."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0 or self.typical_p < 1.0

    @property
    def penalizes(self) -> bool:
        """True when tokens that occurred are made less or more likely."""
        return self.repetition_penalty != 1.0 or self.penalizes_output

    @property
    def penalizes_output(self) -> bool:
        """True when the penalty depends on the output alone."""
        return self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def masks_tokens(self) -> bool:
        """True when some tokens are allowed, banned or biased by themselves."""
        return bool(self.logit_bias or self.allowed_token_ids or self.bad_token_ids)

    @property
    def num_outcomes(self) -> int:
        """Sequences with an outcome of their own; a beam search has one for all."""
        return 1 if self.beam_width else self.n

    def _check_length(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", "must be at least 1")
        _require(self.min_tokens >= 0, "min_tokens", "must not be negative")
        _require(self.min_tokens <= self.max_tokens, "min_tokens", "must not exceed max_tokens")

    def _check_filters(self) -> None:
        is_warm = math.isfinite(self.temperature) and self.temperature >= 0.0
        _require(is_warm, "temperature", "must be a finite number of at least 0")
        _require(self.top_k >= 0, "top_k", "must not be negative (0 turns it off)")
        _require(0.0 < self.top_p <= 1.0, "top_p", "must be above 0 and at most 1")
        _require(0.0 <= self.min_p <= 1.0, "min_p", "must be within [0, 1]")
        _require(0.0 < self.typical_p <= 1.0, "typical_p", "must be above 0 and at most 1")

    def _check_penalties(self) -> None:
        is_factor = math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0.0
        _require(is_factor, "repetition_penalty", "must be a finite number above 0")
        for field in ("frequency_penalty", "presence_penalty"):
            _require(-2.0 <= getattr(self, field) <= 2.0, field, "must be within [-2, 2]")

    def _check_beam_search(self) -> None:
        _require(math.isfinite(self.length_penalty), "length_penalty", "must be a finite number")
        if self.beam_width == 0:
            _require(self.length_penalty == 1.0, "length_penalty", "needs a beam_width")
            return
        _require(self.beam_width >= 2, "beam_width", "must be at least 2 (0 turns it off)")
        _require(self.n <= self.beam_width, "n", "must not exceed beam_width")
        _require(self.temperature in (0.0, 1.0), "temperature", _NOT_WITH_BEAMS)
        for field, off in _OFF_WITH_BEAMS.items():
            _require(getattr(self, field) == off, field, _NOT_WITH_BEAMS)

    def _check_token_ids(self) -> None:
        for field in ("stop_token_ids", "allowed_token_ids", "bad_token_ids"):
            _require(all(i >= 0 for i in getattr(self, field)), field, "must not be negative")
        _require(all(i >= 0 for i, _ in self.logit_bias), "logit_bias", "has a negative token id")
        is_bounded = all(abs(bias) <= MAX_BIAS for _, bias in self.logit_bias)
        _require(is_bounded, "logit_bias", f"must be within [-{MAX_BIAS:g}, {MAX_BIAS:g}]")
        is_unique = len(dict(self.logit_bias)) == len(self.logit_bias)
        _require(is_unique, "logit_bias", "names a token twice")


def _require(condition: bool, field: str, message: str) -> None:
    if not condition:
        raise ParamError(field, message)
