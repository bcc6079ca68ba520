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
    """Return the failures and the errors that services logged, the first of many."""
    shown = [_failure(summary.seed, failure) for failure in summary.failures[:MOST_SHOWN]]
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


def _failure(seed: int, failure: Failure) -> str:
    again = f"python -m tests.e2e.fuzz --seed {seed} --case {failure.number}"
    title = again if failure.number is not None else "between cases"
    faults = "\n".join(f"  {fault}" for fault in failure.faults)
    return f"{title}\n{faults}\n{exchange(failure.case, failure.reply)}"
