"""Sequence group of one beam search: maps beams to sequences; forks and frees them.

The leader is the admitted request with its one outcome. The other members are sequences without a
name of their own, which run beside it and end with it. A search that is preempted starts again
from its prompt, which does not show because a beam search has no output before its end.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.outputs import Beam, StepOutput
from services.generator.engine.request import FinishReason, Request
from services.generator.engine.sequences.beam_search import (
    BeamSearch,
    Continuation,
    Hypothesis,
    Row,
)
from services.generator.engine.sequences.fork import fork
from services.generator.engine.token_logprobs import Candidate


class MemberChange(NamedTuple):
    """The members of a group that stop running, and those that start."""

    stopped: Sequence[Request] = ()
    started: Sequence[Request] = ()


class BeamGroup:
    """Owns the search of a leader, as its `SequenceGroup`.

    `members` are the sequences that host a beam; the leader's `forks` are those that host none.
    """

    def __init__(self, leader: Request, others: list[Request]) -> None:
        self.leader = leader
        self.members = [leader]
        leader.forks = others
        for request in (leader, *others):
            request.beams = self
        self._candidates: dict[Request, Sequence[Candidate]] = {}
        self.search = self._new_search()

    def extend(
        self, member: Request, candidates: Sequence[Candidate], pool: BlockPool
    ) -> MemberChange | None:
        """Take how one beam could go on; with the last one of the step, choose those that do.

        A beam that goes on stays with its host; each further continuation of it forks into a
        member without a beam. Return the change of members; None when the search has ended.
        """
        self._candidates[member] = candidates
        if len(self._candidates) < len(self.members):
            return MemberChange()
        parents = self.members
        rows = [Row(m.token_ids[m.num_prompt_tokens :], self._candidates[m]) for m in parents]
        self._candidates = {}
        beams = self.search.advance(rows)
        if not beams:
            return None
        hosts = self._hosts(beams)
        for beam, host in zip(beams, hosts, strict=True):
            if host is not parents[beam.parent]:
                fork(parents[beam.parent], host, pool)
        for beam, host in zip(beams, hosts, strict=True):
            host.token_ids.append(beam.token_id)
        change = self._set_members(hosts)
        for request in change.stopped:
            pool.release(request.block_ids)
            request.block_ids = []
        return change

    def outcome(self) -> tuple[FinishReason, list[Hypothesis]]:
        """Return the outcome of a search that has ended, and its best sequences, best first."""
        best = self.search.finished[: self.leader.params.n]
        if not best:
            return FinishReason.ERROR, []
        return (FinishReason.STOP if best[0].is_stopped else FinishReason.LENGTH), best

    def restart(self) -> Sequence[Request]:
        """Forget all beams: the leader is its prompt again; return the others, which stop."""
        change = self._set_members([self.leader])
        self._candidates = {}
        self.search = self._new_search()
        del self.leader.token_ids[self.leader.num_prompt_tokens :]
        # those of the prompt are made again
        self.leader.block_hashes = []
        return change.stopped

    def _hosts(self, beams: Sequence[Continuation]) -> list[Request]:
        """Choose a member for each beam; the leader is always among them."""
        taken: set[int] = set()
        idle = [m for i, m in enumerate(self.members) if i not in {b.parent for b in beams}]
        spare = sorted((*idle, *self.leader.forks), key=lambda m: m is not self.leader)
        hosts = []
        for beam in beams:
            if beam.parent in taken:
                hosts.append(spare.pop(0))
            else:
                taken.add(beam.parent)
                hosts.append(self.members[beam.parent])
        if self.leader not in hosts:
            hosts[-1] = self.leader
        return hosts

    def _set_members(self, hosts: list[Request]) -> MemberChange:
        """Let those be members that host a beam, the leader among them, and no others."""
        stopped = [request for request in self.members if request not in hosts]
        started = [request for request in hosts if request not in self.members]
        self.leader.forks = [r for r in (*stopped, *self.leader.forks) if r not in started]
        self.members = hosts
        return MemberChange(stopped, started)

    def _new_search(self) -> BeamSearch:
        params = self.leader.params
        return BeamSearch(
            params.beam_width,
            params.length_penalty,
            params.max_tokens,
            self.leader.stop_token_ids,
            include_stop_token=params.include_stop_token,
        )

    def __repr__(self) -> str:
        return f"BeamGroup({self.leader.request_id!r}, {self.search!r})"


def beam_output(output: StepOutput, hypotheses: Sequence[Hypothesis]) -> StepOutput:
    """Put the sequences that a beam search found, best first, into the output that ends it."""
    if not hypotheses:
        return output
    best, *others = (
        Beam(h.token_ids, FinishReason.STOP if h.is_stopped else FinishReason.LENGTH)
        for h in hypotheses
    )
    return replace(
        output,
        token_ids=best.token_ids,
        num_output_tokens=sum(hypothesis.num_tokens for hypothesis in hypotheses),
        other_beams=tuple(others),
    )
