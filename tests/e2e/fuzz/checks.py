"""What is wrong with a reply: the rules that hold for every case."""

from collections.abc import Iterator

from tests.e2e.fuzz import answers, refusals
from tests.e2e.fuzz.case import Case, Framing
from tests.e2e.fuzz.client import LIMIT_S, End, Reply

BUSY = (429, 503)
EXPIRED = 504


def faults(case: Case, reply: Reply) -> list[str]:
    """Return a line for each thing that is wrong."""
    wrong = list(_end(case, reply))
    if reply.end is End.DROPPED or not reply.status:
        return wrong
    if reply.status >= 400:
        return [*wrong, *_refusal_status(case, reply), *refusals.faults(case, reply)]
    if not 200 <= reply.status < 300:
        return [*wrong, f"status {reply.status}"]
    if reply.end not in (End.HUNG, End.BROKEN, End.SILENT):
        wrong += answers.faults(case, reply)
    return wrong


def _end(case: Case, reply: Reply) -> Iterator[str]:
    if reply.end is End.SILENT and case.framing is Framing.SHORT and not reply.status:
        return
    if reply.end in (End.SILENT, End.HUNG, End.BROKEN, End.UNUSABLE):
        yield f"{reply.end.value} {reply.detail}".strip()
    elif reply.seconds > LIMIT_S:
        yield f"took {reply.seconds:.1f} s"


def _refusal_status(case: Case, reply: Reply) -> Iterator[str]:
    """Yield what is wrong with the status of an error."""
    if reply.status in BUSY:
        if not reply.headers.get("retry-after"):
            yield f"{reply.status} without Retry-After"
    elif reply.status >= 500 and not (reply.status == EXPIRED and case.expires):
        yield f"status {reply.status}"
