"""Token sampling of a step on the device: masks, penalties, draws, log-probabilities and beams.

The same as on a CPU but for random draws: the kernel has a random stream of its own. Everything is
launched at once and nothing is waited for.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.host_sampling import HostSampling, samples_on_host
from services.generator.backend.gpu.sampling.logprobs import LogprobsReader
from services.generator.backend.gpu.sampling.penalties import Penalties
from services.generator.backend.gpu.sampling.sampled_tokens import (
    BeamRows,
    LogprobsRows,
    SampledTokens,
)
from services.generator.backend.gpu.sampling.sampling_tensors import sampling_tensors
from services.generator.backend.gpu.sampling.token_masks import TokenMasks
from services.generator.backend.gpu.transfers import Transfers
from services.generator.backend.gpu.triton.checks import require_shape
from services.generator.backend.gpu.triton.sampling.sample import sample
from services.generator.backend.sampling.beam_candidates import likeliest, num_candidates
from services.generator.engine.draw import Draw
from services.generator.engine.token_logprobs import TokenLogprobs

_SAMPLE_ARGUMENTS = ("temperature", "top_k", "top_p", "min_p", "seeds", "positions")
# what a plain row sends and fetches, roughly
_ROW_BYTES = 64
_FIRST_SLOTS = 8


class TokenSampler:
    """Launches the sampling of a token per row; what was launched is read after the wait.

    What it remembers of a request follows from the request itself, so that a step may be launched
    again. What was launched three turns ago must have been waited for and read.
    """

    def __init__(self, device: Device, vocab_size: int, max_rows: int) -> None:
        """`max_rows` is how many a step is expected to have at most; more are served too."""
        self._vocab_size = vocab_size
        self._transfers = Transfers(device, 4096 + _ROW_BYTES * max_rows)
        self._masks = TokenMasks(self._transfers, device.device, vocab_size)
        self._penalties = Penalties(device.device, vocab_size, min(_FIRST_SLOTS, max_rows))

    def turn(self) -> None:
        """Begin a step, of which there may be several launches."""
        self._transfers.turn()

    @torch.inference_mode()
    def launch(self, logits: torch.Tensor, draws: Sequence[Draw]) -> SampledTokens:
        """Launch a token per row of `logits` [S, vocab]: float32, float16 or bfloat16, unchanged.

        Rows with typical_p are copied to host memory whole and drawn there. Raises KernelError.
        """
        require_shape("logits", logits, len(draws), self._vocab_size)
        described = [row for row, draw in enumerate(draws) if _is_described(draw)]
        beams = [row for row, draw in enumerate(draws) if draw.request.beams is not None]
        sent = self._transfers.send(
            {
                **sampling_tensors(draws, self._vocab_size),
                **self._masks.columns(draws),
                **self._penalties.columns(draws),
                "described": torch.tensor(described, dtype=torch.int64),
                "beams": torch.tensor(beams, dtype=torch.int64),
            }
        )
        processed = self._processed(logits, draws, sent)
        tokens = sample(processed, **{name: sent[name] for name in _SAMPLE_ARGUMENTS})
        on_host = {row: draw for row, draw in enumerate(draws) if samples_on_host(draw)}
        return SampledTokens(
            tokens,
            self._transfers.fetch(tokens),
            HostSampling(logits, processed, on_host, self._transfers) if on_host else None,
            self._describe(logits, tokens, draws, described, sent) if described else None,
            self._extend(logits, processed, draws, beams, sent) if beams else None,
        )

    @torch.inference_mode()
    def launch_scores(
        self, logits: torch.Tensor, token_ids: Sequence[int], counts: Sequence[int]
    ) -> Callable[[], list[TokenLogprobs]]:
        """Launch the log-probability of a given token per row of `logits` [P, vocab].

        Return what reads them, with `counts` alternatives each, after the wait. Raises KernelError.
        """
        require_shape("logits", logits, len(token_ids), self._vocab_size)
        column = torch.tensor(token_ids, dtype=torch.int64)
        sent = self._transfers.send({"token_ids": column})
        reader = LogprobsReader(logits, sent["token_ids"], counts, self._transfers)
        return partial(reader.read, token_ids)

    def _processed(
        self, logits: torch.Tensor, draws: Sequence[Draw], sent: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the logits themselves where no row is changed, else a float32 copy that is.

        Widened, because a small penalty would be lost in the rounding of narrower logits.
        """
        if "banned" not in sent and "penalized" not in sent:
            return logits
        processed = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self._masks.apply_(processed, draws, sent)
        self._penalties.apply_(processed, draws, sent)
        return processed

    def _describe(
        self,
        raw: torch.Tensor,
        tokens: torch.Tensor,
        draws: Sequence[Draw],
        rows: list[int],
        sent: Mapping[str, torch.Tensor],
    ) -> LogprobsRows:
        if len(rows) < len(draws):
            raw, tokens = (t.index_select(0, sent["described"]) for t in (raw, tokens))
        counts = [draws[row].params.logprobs or 0 for row in rows]
        # a row without a token is described too, and dropped by its reader
        return LogprobsRows(rows, LogprobsReader(raw, tokens.clamp(0), counts, self._transfers))

    def _extend(
        self,
        raw: torch.Tensor,
        processed: torch.Tensor,
        draws: Sequence[Draw],
        rows: list[int],
        sent: Mapping[str, torch.Tensor],
    ) -> BeamRows:
        counts = [num_candidates(draws[row].request) for row in rows]
        totals = raw.index_select(0, sent["beams"]).float().logsumexp(dim=1, keepdim=True)
        best = likeliest(processed.index_select(0, sent["beams"]), totals, max(counts))
        token_ids, logprobs = map(self._transfers.fetch, best)
        return BeamRows(rows, token_ids, logprobs, counts)

    def __repr__(self) -> str:
        return f"TokenSampler({self._masks!r}, {self._penalties!r})"


def follows_known_tokens(draw: Draw) -> bool:
    """Return whether a draw may be launched before all tokens ahead of it are known here."""
    return not draw.params.penalizes and not samples_on_host(draw) and not draw.request.beams


def _is_described(draw: Draw) -> bool:
    return draw.params.logprobs is not None and not samples_on_host(draw)
