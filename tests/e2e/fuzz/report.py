"""A run's summary as text: the counts, and for each failure how to run that case again."""

from tests.e2e.fuzz.case import Case
from tests.e2e.fuzz.client import Reply
from tests.e2e.fuzz.run import Failure, Summary

MOST_SHOWN = 25
SENT_BYTES = 900
BODY_BYTES = 300


def counts(summary: Summary) -> str:
    """Return the figures of a run, a line each."""
    statuses = ", ".join(f"{status}: {n}" for status, n in sorted(summary.statuses.items()))
    rate = summary.num_cases / max(summary.seconds, 1e-9)
    return "\n".join((
        f"seed {summary.seed}: {summary.num_cases} cases in {summary.seconds:.1f} s, {rate:.0f}/s",
        f"accepted: {summary.accepted_share:.1%} of the cases",
        f"from valid requests with one or two fields changed: {summary.near_valid_share:.1%}"
        f" of {summary.num_bodies} bodies",
        f"statuses: {statuses}; {summary.num_dropped} dropped midway,"
        f" {summary.num_silent} cut short and closed without an answer",
        f"slowest: case {summary.slowest[1]}, {summary.slowest[0]:.2f} s",
        f"failures: {len(summary.failures)}; errors logged: {len(summary.logged)}",
    ))  # fmt: skip


def failures(summary: Summary) -> str:
    """Return a failure of each sort with the numbers of its like, and what services logged."""
    sorts: dict[tuple[str, int, str], list[Failure]] = {}
    for failure in summary.failures:
        sort = (failure.case.kind, failure.reply.status, failure.faults[0])
        sorts.setdefault(sort, []).append(failure)
    shown = [_failures(summary.seed, alike) for alike in list(sorts.values())[:MOST_SHOWN]]
    return "\n\n".join([*shown, *summary.logged[:MOST_SHOWN]])


def exchange(case: Case, reply: Reply) -> str:
    """Return what was sent and what came back, both cut."""
    sent = b"".join(case.parts)
    cut = f" ... {len(sent)} bytes" if len(sent) > SENT_BYTES else ""
    return (
        f"  {case.kind}: {sent[:SENT_BYTES]!r}{cut}\n"
        f"  {reply.status} in {reply.seconds:.2f} s, {reply.end.name}:"
        f" {reply.body[:BODY_BYTES]!r} {reply.headers.get('x-request-id', '')}"
    )


def _failures(seed: int, alike: list[Failure]) -> str:
    first = alike[0]
    again = f"python -m tests.e2e.fuzz --seed {seed} --case {first.number}"
    title = again if first.number is not None else "between cases"
    if len(alike) > 1:
        others = " ".join(str(failure.number) for failure in alike[1 : 1 + MOST_SHOWN])
        title += f"\n  and {len(alike) - 1} alike: {others}"
    faults = "\n".join(f"  {fault}" for fault in first.faults)
    return f"{title}\n{faults}\n{exchange(first.case, first.reply)}"
