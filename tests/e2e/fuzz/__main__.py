"""`python -m tests.e2e.fuzz [--seed S] [--cases N | --case N]`: the fuzz test at any length.

Starts a stack of its own, or takes the running one that INFERMESH_E2E_URL and _KEY name.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.e2e.fuzz import report
from tests.e2e.fuzz.generate.cases import case
from tests.e2e.fuzz.run import prepare, run, try_case
from tests.e2e.fuzz.target import target
from tests.e2e.stack import Address

DEFAULT_CASES = 20_000


async def run_alone(address: Address, seed: int, number: int) -> bool:
    """Run one case, print what was sent and what came back; return whether it is well."""
    await prepare(address)
    tried = case(seed, number)
    reply, faults = await try_case(address, tried)
    print(report.exchange(tried, reply), *faults or ["well"], sep="\n")
    return not faults


def main() -> int:
    """Return 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.fuzz")
    parser.add_argument("--seed", type=int, help="default: a random one")
    parser.add_argument("--cases", type=int, default=DEFAULT_CASES)
    parser.add_argument("--case", type=int, help="run this one alone")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as name, target(Path(name)) as (address, folder):
        if options.case is not None:
            return 0 if asyncio.run(run_alone(address, seed, options.case)) else 1
        summary = asyncio.run(run(address, seed, range(options.cases), folder))
    print(report.failures(summary), report.counts(summary), sep="\n\n")
    return 0 if summary.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
