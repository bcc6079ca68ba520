"""The token choice of a step on the device, as `Runner` makes it on the CPU.

The same edits, log-probabilities and candidates; random draws differ, because the kernel has a
random stream of its own. Everything is launched at once and nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.host_sampling import HostDraws, is_drawn_on_host
from services.generator.backend.gpu.sampling.logprobs import DescribedTokens
from services.generator.backend.gpu.sampling.penalties import Penalties
from services.generator.backend.gpu.sampling.sampled_tokens import BeamRows, Chosen, DescribedRows
from services.generator.backend.gpu.sampling.sampling_tensors import row_params
from services.generator.backend.gpu.sampling.token_mask import VocabularyEdits
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


class TokenChoice:
    """Launches the choice of a token per row; what was launched is read after the wait.

    What it remembers of a request follows from the request itself, so that a step may be launched
    again. What was launched three turns ago must have been waited for and read.
    """

    def __init__(self, device: Device, vocab_size: int, max_rows: int) -> None:
        """`max_rows` is how many a step is expected to have at most; more are served too."""
        self._vocab_size = vocab_size
        self._transfers = Transfers(device, 4096 + _ROW_BYTES * max_rows)
        self._vocabulary = VocabularyEdits(self._transfers, device.device, vocab_size)
        self._penalties = Penalties(device.device, vocab_size, min(_FIRST_SLOTS, max_rows))

    def turn(self) -> None:
        """Begin a pass, of which there may be several launches."""
        self._transfers.turn()

    @torch.inference_mode()
    def launch(self, logits: torch.Tensor, draws: Sequence[Draw]) -> Chosen:
        """Launch a token per row of `logits` [S, vocab]: float32, float16 or bfloat16, unchanged.

        Rows with typical_p are copied to host memory whole and drawn there. Raises KernelError.
        """
        require_shape("logits", logits, len(draws), self._vocab_size)
        described = [row for row, draw in enumerate(draws) if _is_described(draw)]
        beams = [row for row, draw in enumerate(draws) if draw.request.beams is not None]
        sent = self._transfers.send(
            {
                **row_params(draws, self._vocab_size),
                **self._vocabulary.columns(draws),
                **self._penalties.columns(draws),
                "described": torch.tensor(described, dtype=torch.int64),
                "beams": torch.tensor(beams, dtype=torch.int64),
            }
        )
        edited = self._edited(logits, draws, sent)
        tokens = sample(edited, **{name: sent[name] for name in _SAMPLE_ARGUMENTS})
        on_host = {row: draw for row, draw in enumerate(draws) if is_drawn_on_host(draw)}
        return Chosen(
            tokens,
            self._transfers.fetch(tokens),
            HostDraws(logits, edited, on_host, self._transfers) if on_host else None,
            self._describe(logits, tokens, draws, described, sent) if described else None,
            self._extend(logits, edited, draws, beams, sent) if beams else None,
        )

    @torch.inference_mode()
    def launch_scores(
        self, logits: torch.Tensor, token_ids: Sequence[int], counts: Sequence[int]
    ) -> Callable[[], list[TokenLogprobs]]:
        """Describe a given token per row of `logits` [P, vocab], with `counts` alternatives.

        Return what reads the descriptions after the wait. Raises KernelError.
        """
        require_shape("logits", logits, len(token_ids), self._vocab_size)
        column = torch.tensor(token_ids, dtype=torch.int64)
        sent = self._transfers.send({"token_ids": column})
        described = DescribedTokens(logits, sent["token_ids"], counts, self._transfers)
        return partial(described.read, token_ids)

    def _edited(
        self, logits: torch.Tensor, draws: Sequence[Draw], sent: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the logits themselves where no row is edited, else a float32 copy with the edits.

        Widened, because a small penalty would be lost in the rounding of narrower logits.
        """
        if "banned" not in sent and "penalized" not in sent:
            return logits
        edited = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self._vocabulary.apply_(edited, draws, sent)
        self._penalties.apply_(edited, draws, sent)
        return edited

    def _describe(
        self,
        raw: torch.Tensor,
        tokens: torch.Tensor,
        draws: Sequence[Draw],
        rows: list[int],
        sent: Mapping[str, torch.Tensor],
    ) -> DescribedRows:
        if len(rows) < len(draws):
            raw, tokens = (t.index_select(0, sent["described"]) for t in (raw, tokens))
        counts = [draws[row].params.logprobs or 0 for row in rows]
        # a row without a token is described too, for whoever drops it
        return DescribedRows(rows, DescribedTokens(raw, tokens.clamp(0), counts, self._transfers))

    def _extend(
        self,
        raw: torch.Tensor,
        edited: torch.Tensor,
        draws: Sequence[Draw],
        rows: list[int],
        sent: Mapping[str, torch.Tensor],
    ) -> BeamRows:
        counts = [num_candidates(draws[row].request) for row in rows]
        totals = raw.index_select(0, sent["beams"]).float().logsumexp(dim=1, keepdim=True)
        found = likeliest(edited.index_select(0, sent["beams"]), totals, max(counts))
        token_ids, logprobs = map(self._transfers.fetch, found)
        return BeamRows(rows, token_ids, logprobs, counts)

    def __repr__(self) -> str:
        return f"TokenChoice({self._vocabulary!r}, {self._penalties!r})"


def follows_known_tokens(draw: Draw) -> bool:
    """Return whether a draw may be launched before all tokens ahead of it are known here."""
    return not draw.params.penalizes and not is_drawn_on_host(draw) and not draw.request.beams


def _is_described(draw: Draw) -> bool:
    return draw.params.logprobs is not None and not is_drawn_on_host(draw)
