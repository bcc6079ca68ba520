"""The sequences of one beam search: who hosts which beam, and how the beams fork and fall.

The leader is the admitted request with its one outcome. The other members are sequences without a
name of their own, which run beside it and end with it. A search that is preempted starts again
from its prompt, which nobody sees because a beam search tells nothing before its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.request import FinishReason, Request, RequestStatus
from services.generator.engine.scheduling.request_queue import RequestQueue
from services.generator.engine.sequences.beam_search import (
    BeamSearch,
    Continuation,
    Hypothesis,
    Row,
)
from services.generator.engine.sequences.fork import fork
from services.generator.engine.token_logprobs import Candidate


class BeamGroup:
    """Owns the search of a leader; the leader's `forks` are the members that host no beam."""

    def __init__(self, leader: Request, others: list[Request]) -> None:
        self.leader = leader
        self.members = [leader]
        leader.forks = others
        for request in (leader, *others):
            request.beams = self
        self._told: dict[Request, Sequence[Candidate]] = {}
        self.search = self._new_search()

    def tell(self, member: Request, candidates: Sequence[Candidate]) -> bool:
        """Take a member's candidates of this step; return whether all have told theirs."""
        self._told[member] = candidates
        return len(self._told) == len(self.members)

    def advance(self, pool: BlockPool, running: RequestQueue) -> bool:
        """Fork and drop beams by what all members told; False when the search has ended.

        A beam that goes on stays with its host; each further continuation of it forks into a
        member without a beam.
        """
        rows = [Row(m.token_ids[m.num_prompt_tokens :], self._told[m]) for m in self.members]
        self._told = {}
        parents = self.members
        beams = self.search.advance(rows)
        if not beams:
            return False
        hosts = self._hosts(beams)
        for beam, host in zip(beams, hosts, strict=True):
            if host is not parents[beam.parent]:
                fork(parents[beam.parent], host, pool)
        for beam, host in zip(beams, hosts, strict=True):
            host.token_ids.append(beam.token_id)
        self._set_members(hosts, pool, running)
        return True

    def end(self) -> tuple[FinishReason, list[Hypothesis]]:
        """Return the outcome of a search that has ended, and its best sequences, best first."""
        found = self.search.finished[: self.leader.params.n]
        if not found:
            return FinishReason.ERROR, []
        return (FinishReason.STOP if found[0].is_stopped else FinishReason.LENGTH), found

    def restart(self, pool: BlockPool, running: RequestQueue) -> None:
        """Forget all beams: the leader is its prompt again, and the others host nothing."""
        self._set_members([self.leader], pool, running)
        self._told = {}
        self.search = self._new_search()
        num_prompt_tokens = self.leader.num_prompt_tokens
        del self.leader.token_ids[num_prompt_tokens:]
        del self.leader.block_hashes[num_prompt_tokens // pool.block_size :]

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

    def _set_members(self, hosts: list[Request], pool: BlockPool, running: RequestQueue) -> None:
        """Let those run that host a beam, the leader among them, and no others."""
        fallen = [request for request in self.members if request not in hosts]
        risen = [request for request in hosts if request not in self.members]
        for request in fallen:
            running.remove(request)
            request.status = RequestStatus.WAITING
            pool.release(request.block_ids)
            request.block_ids = []
        for request in risen:
            running.add(request)
            request.status = RequestStatus.RUNNING
        self.leader.forks = [r for r in (*fallen, *self.leader.forks) if r not in risen]
        self.members = hosts

    def _new_search(self) -> BeamSearch:
        params = self.leader.params
        return BeamSearch(
            params.beam_width,
            params.length_penalty,
            params.max_tokens,
            self.leader.stop_token_ids,
        )

    def __repr__(self) -> str:
        return f"BeamGroup({self.leader.request_id!r}, {self.search!r})"
