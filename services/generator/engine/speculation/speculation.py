"""Speculative decoding: how many drafts each decode tries, so that they bring more than they cost.

Policy only. A draft costs its row's time, as learnt; it brings a token if it and all before it are
accepted, as likely as drafts were of late. Both change with traffic and load, so that speculation
switches itself on and off, for each request by itself.
"""

import math
from collections.abc import Sequence

from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.allocator import BlockAllocator
from services.generator.engine.request import Request
from services.generator.engine.speculation.cost import RowTime
from services.generator.engine.speculation.ngram_drafter import SIZES, NgramDrafter, Proposal

# the share of drafts that are accepted as long as nothing is known
_PRIOR = 0.7
# how many tried drafts it counts for, and how many all requests' experience does for each one
_PRIOR_DRAFTS = 3.0
_SHARED_DRAFTS = 1.0
# what one more trial leaves of the ones before: a request's own, and those of all requests
_KEPT_BY_REQUEST = 0.92
_KEPT_BY_ALL = 0.98
# drafts must bring so many times what they cost, because the step's time is known roughly
_MARGIN = 1.2


class Acceptance:
    """The share of tried drafts that were accepted; recent ones count more.

    What is declined is slowly forgotten as well, and so tried again after a while.
    """

    __slots__ = ("_kept", "_num_accepted", "_num_tried")

    def __init__(self, kept: float) -> None:
        self._kept = kept
        self._num_accepted = 0.0
        self._num_tried = 0.0

    def rate(self, prior: float, num_drafts: float) -> float:
        """Return the share, as if `num_drafts` more had been tried with a share of `prior`."""
        return (self._num_accepted + num_drafts * prior) / (self._num_tried + num_drafts)

    def observe(self, num_accepted: int, num_tried: int) -> None:
        """Learn from one verification, or with two zeros from a proposal that was declined."""
        self._num_accepted = self._kept * self._num_accepted + num_accepted
        self._num_tried = self._kept * self._num_tried + num_tried

    def __repr__(self) -> str:
        return f"Acceptance({self._num_accepted:.1f} of {self._num_tried:.1f})"


class _Record:
    """What is known of one request."""

    __slots__ = ("acceptance", "drafter", "size")

    def __init__(self) -> None:
        self.drafter = NgramDrafter()
        self.acceptance = Acceptance(_KEPT_BY_REQUEST)
        self.size = 0  # of the n-gram behind its latest drafts


class Speculation:
    """Owns the drafters of the live requests and what was learnt of their guesses.

    `max_drafts` 0 turns it all off.
    """

    def __init__(self, max_drafts: int) -> None:
        self._max_drafts = max_drafts
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self.num_accepted_tokens_per_pos = [0] * max_drafts
        self._row_time = RowTime()
        self._records: dict[Request, _Record] = {}
        self._by_size = {size: Acceptance(_KEPT_BY_ALL) for size in SIZES}

    @property
    def is_on(self) -> bool:
        """True when drafts may be tried at all."""
        return self._max_drafts > 0

    def propose(
        self, decodes: Sequence[Request], num_tokens: int, left_s: float = math.inf
    ) -> dict[Request, tuple[int, ...]]:
        """Return the drafts that are worth trying in a step with these decodes.

        They are at most `num_tokens` together, take at most `left_s` seconds more, as predicted,
        and none is behind the last token that its request may have.
        """
        drafts: dict[Request, tuple[int, ...]] = {}
        if not self.is_on or not decodes:
            return drafts
        row_s, step_s = self._row_time.row_s(), self._row_time.step_s(len(decodes))
        if step_s == 0.0 or left_s <= 0.0:
            return drafts
        # the tokens that the step would bring in the time of one more row
        price = _MARGIN * row_s * len(decodes) / step_s
        for request in decodes:
            limit = min(self._max_drafts, num_tokens, _num_useful(request))
            if row_s * limit > left_s:
                limit = int(left_s / row_s)
            token_ids = self._draft(request, limit, price)
            if token_ids:
                drafts[request] = token_ids
                num_tokens -= len(token_ids)
                left_s -= row_s * len(token_ids)
        return drafts

    def with_drafts(
        self, chunks: list[Chunk], num_tokens: int, left_s: float, blocks: BlockAllocator
    ) -> list[Chunk]:
        """Return the chunks of a step, decodes extended by the drafts that `propose` returns."""
        if not self.is_on:
            return chunks
        decodes = [c.request for c in chunks if _may_speculate(c)]
        proposals = self.propose(decodes, num_tokens, left_s)
        if not proposals:
            return chunks
        extended = []
        for chunk in chunks:
            drafts = proposals.get(chunk.request, ())
            drafts = drafts[: blocks.ensure_drafts(chunk.request, chunk.end, len(drafts))]
            num_all = chunk.num_tokens + len(drafts)
            extended.append(Chunk(chunk.request, chunk.start, num_all, drafts))
        return extended

    def observe(self, request: Request, num_drafts: int, num_accepted: int) -> None:
        """Learn how many of a request's drafts were drawn; those after a wrong one were no try."""
        self.num_drafts += 1
        self.num_draft_tokens += num_drafts
        self.num_accepted_tokens += num_accepted
        for position in range(num_accepted):
            self.num_accepted_tokens_per_pos[position] += 1
        self._learn(self._records[request], num_accepted, min(num_accepted + 1, num_drafts))

    def observe_step(self, num_rows: int, step_s: float) -> None:
        """Learn how long a step without prompts took."""
        self._row_time.observe(num_rows, step_s)

    def drop(self, request: Request) -> None:
        """Forget a request that ended; idempotent."""
        self._records.pop(request, None)

    def check(self, live: Sequence[Request]) -> None:
        """Assert that nothing is kept of requests that ended."""
        assert self._records.keys() <= set(live), "a drafter outlives its request"

    def _draft(self, request: Request, limit: int, price: float) -> tuple[int, ...]:
        """Return at most `limit` drafts, each likelier to be accepted than its price in tokens."""
        if limit < 1 or price >= 1.0:
            return ()
        record = self._records.get(request)
        if record is None:
            record = self._records[request] = _Record()
        proposal = record.drafter.propose(request.token_ids, limit)
        if proposal is None:
            return ()
        record.size = proposal.size
        token_ids = proposal.token_ids[: self._num_worthwhile(record, proposal, price)]
        if not token_ids:
            self._learn(record, 0, 0)
        return token_ids

    def _num_worthwhile(self, record: _Record, proposal: Proposal, price: float) -> int:
        shared = self._by_size[proposal.size].rate(_PRIOR, _PRIOR_DRAFTS)
        rate = record.acceptance.rate(shared, _SHARED_DRAFTS)
        count, likelihood = 0, rate
        while count < len(proposal.token_ids) and likelihood > price:
            count += 1
            likelihood *= rate
        return count

    def _learn(self, record: _Record, num_accepted: int, num_tried: int) -> None:
        for acceptance in (record.acceptance, self._by_size[record.size]):
            acceptance.observe(num_accepted, num_tried)

    def __repr__(self) -> str:
        return (
            f"Speculation({self.num_accepted_tokens} of {self.num_draft_tokens} drafts accepted, "
            f"by n-gram {self._by_size})"
        )


def _may_speculate(chunk: Chunk) -> bool:
    """Return whether the chunk is a decode of a sequence that shares its rows with no other."""
    request = chunk.request
    return chunk.num_tokens == 1 and chunk.samples and not request.forks and not request.beams


def _num_useful(request: Request) -> int:
    """Return the drafts whose acceptance could still matter: the last row always draws a token."""
    return request.params.max_tokens - request.num_output_tokens - 1
