"""Runs cases by the hundred, several at once, and counts; between hundreds all must be well."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.fuzz import checks, refusals
from tests.e2e.fuzz.case import CHAT, JSON_TYPE, KEY, LASTING_COLLECTION, MODEL, Case
from tests.e2e.fuzz.client import LIMIT_S, End, Reply, exchange
from tests.e2e.fuzz.generate.bodies import post
from tests.e2e.fuzz.generate.cases import case
from tests.e2e.fuzz.generate.routes import bare
from tests.e2e.stack import Address

AT_ONCE = 8
BATCH = 100
# a gateway this broken is not worth the rest
MOST_FAILURES = 150
POLL_S = 0.02
# documents are indexed one after another, behind those of other cases
INDEX_LIMIT_S = 20.0
FIRST_LIMIT_S = 60.0
WRONG_LINE = re.compile(
    r"fault in|Task exception was never retrieved|was never awaited|Traceback|restarts [1-9]"
)
LEFT_OVER = re.compile(r"infermesh_gateway_(?:running_jobs|waiting_jobs|permits) (?!0\.0$)")
WRONG_LEVELS = ("ERROR", "CRITICAL")


@dataclass(slots=True)
class Failure:
    """A case and what was wrong with it; `number` None for what lies between cases."""

    number: int | None
    case: Case
    reply: Reply
    faults: list[str]


@dataclass(slots=True)
class Summary:
    """What was counted over all cases."""

    seed: int
    num_cases: int = 0
    num_bodies: int = 0
    num_near_valid: int = 0
    num_accepted: int = 0
    num_dropped: int = 0
    num_silent: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def add(self, number: int, tried: Case, reply: Reply, faults: list[str]) -> None:
        """Count one case."""
        self.num_cases += 1
        self.num_bodies += tried.has_body
        self.num_near_valid += tried.near_valid
        self.num_accepted += 200 <= reply.status < 300
        self.num_dropped += reply.end is End.DROPPED
        self.num_silent += not reply.status and reply.end is End.SILENT
        self.slowest = max(self.slowest, (reply.seconds, number))
        if reply.status:
            self.statuses[reply.status] += 1
        if faults:
            self.failures.append(Failure(number, tried, reply, faults))

    @property
    def accepted_share(self) -> float:
        """Of all cases, those answered with 2xx."""
        return self.num_accepted / max(1, self.num_cases)

    @property
    def near_valid_share(self) -> float:
        """Of all bodies, valid requests with one or two fields changed."""
        return self.num_near_valid / max(1, self.num_bodies)

    @property
    def is_well(self) -> bool:
        """Whether nothing was wrong."""
        return not self.failures and not self.logged


class Logs:
    """The log files of a stack's folder, if it is ours; each line is judged once."""

    def __init__(self, folder: Path | None) -> None:
        # not what `up` says to the person who started it: their key, for one
        paths = (folder / ".infermesh" / "logs").glob("*.log") if folder else ()
        self._ends = {path: path.stat().st_size for path in paths}

    def new_faults(self) -> Iterator[str]:
        """Yield the lines since the last call that tell of an error."""
        for path, end in self._ends.items():
            with path.open("rb") as log:
                log.seek(end)
                # a line that is still being written waits for its end
                whole = log.read().rpartition(b"\n")[0]
            self._ends[path] = end + len(whole)
            for line in whole.decode("utf-8", "replace").splitlines():
                if _tells_of_error(line):
                    yield f"{path.name}: {line[:1500]}"


async def run(address: Address, seed: int, numbers: Iterable[int], folder: Path | None) -> Summary:
    """Run the cases of these numbers; stop early where the gateway no longer answers.

    `folder` is the stack's own, whose logs tell of errors; None where they cannot be read.
    """
    await prepare(address)
    summary, log = Summary(seed), Logs(folder)
    waiting = list(numbers)
    started = time.monotonic()
    while waiting and len(summary.failures) < MOST_FAILURES:
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
        remaining = iter(batch)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(_worker(address, summary, remaining))
        failure = await ordinary(address)
        summary.logged += (f"cases {batch[0]}-{batch[-1]}: {line}" for line in log.new_faults())
        if failure:
            summary.failures.append(failure)
            break
    summary.seconds = time.monotonic() - started
    summary.logged += await _left_over(address)
    return summary


async def try_case(address: Address, tried: Case) -> tuple[Reply, list[str]]:
    """Send one case; return the reply and what is wrong with it."""
    reply = await exchange(address, tried)
    try:
        faults = checks.faults(tried, reply)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return reply, [f"the reply has another structure: {error!r}"]
    if tried.kind == "document" and reply.status == 202 and not faults:
        faults += await _ingestion_faults(address, json.loads(reply.body)["ingestion_id"])
    return reply, faults


async def ordinary(address: Address) -> Failure | None:
    """Ask what anybody may ask, with a citation; return what was wrong."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "When was the lighthouse built?"}],
        "max_tokens": 8,
        "cache": "no-store",
        "retrieval": {"collection": LASTING_COLLECTION},
    }
    asked = post("ordinary", CHAT, json.dumps(body).encode(), (JSON_TYPE,), body=body)
    reply = await exchange(address, asked)
    faults = checks.faults(asked, reply)
    if reply.status != 200:
        faults.append("an ordinary request was not answered")
    return Failure(None, asked, reply, faults) if faults else None


async def _worker(address: Address, summary: Summary, numbers: Iterator[int]) -> None:
    for number in numbers:
        tried = case(summary.seed, number)
        summary.add(number, tried, *await try_case(address, tried))


async def prepare(address: Address) -> None:
    """Fill the collection that ordinary requests ask, and wait for the first answer."""
    target = f"/v1/collections/{LASTING_COLLECTION}/documents?source=lighthouse.txt"
    plain = (("Content-Type", "text/plain; charset=utf-8"),)
    filled = post("document", target, b"The lighthouse was built in 1871.", plain)
    reply, faults = await try_case(address, filled)
    assert reply.status == 202 and not faults, (reply, faults)
    # what a service loads or compiles at first use is no case's to pay
    deadline = time.monotonic() + FIRST_LIMIT_S
    while failure := await ordinary(address):
        assert time.monotonic() < deadline, failure
        await asyncio.sleep(POLL_S)


async def _ingestion_faults(address: Address, ingestion_id: str) -> list[str]:
    """Wait until a document is indexed or refused; return what is wrong with that."""
    asked = bare("ingestion", "GET", f"/v1/ingestions/{ingestion_id}")
    deadline = time.monotonic() + INDEX_LIMIT_S
    while time.monotonic() < deadline:
        reply = await exchange(address, asked)
        if faults := checks.faults(asked, reply):
            return faults
        state = json.loads(reply.body)
        if state["status"] == "indexed":
            return []
        if state["status"] == "failed":
            told = state.get("error")
            inside = refusals.INTERNAL.search(str(told))
            return [f"the ingestion failed with {told!r}"] if inside or not told else []
        await asyncio.sleep(POLL_S)
    return [f"the document is still {state['status']} after {INDEX_LIMIT_S:g} s"]


async def _left_over(address: Address) -> list[str]:
    """Return the gauges that say that work goes on though nobody waits for it."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        reply = await exchange(address, bare("metrics", "GET", "/metrics"))
        left = [line for line in reply.body.decode().splitlines() if LEFT_OVER.match(line)]
        if not left:
            return []
        await asyncio.sleep(POLL_S)
    return left


def _tells_of_error(line: str) -> bool:
    # a key in a log is a key for whoever reads logs
    if WRONG_LINE.search(line) or KEY in line:
        return True
    try:
        return json.loads(line).get("level") in WRONG_LEVELS
    except (ValueError, AttributeError):
        return False
