"""`python -m tests.e2e.container_speed MODEL`: one request in containers against the same outside.

Reads INFERMESH_URL and INFERMESH_API_KEY of the containers' gateway, starts `infermesh up` beside
it, and has both answer in turn. Fails where the containers' best answer has less than 0.8 times
the tokens per second of the other's: a kernel that is missing there costs far more.
"""

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.e2e.stack import Address, Stack

LEAST_RATIO = 0.8
PAIRS, TOKENS = 7, 200


def main() -> int:
    """Measure and print; return the exit status."""
    containers = Address(os.environ["INFERMESH_URL"], os.environ["INFERMESH_API_KEY"])
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), INFERMESH_MODEL=sys.argv[1])
        try:
            stack.wait_ready()
            best = {containers: 0.0, stack.address: 0.0}
            for number in range(PAIRS):
                for address in best:
                    best[address] = max(best[address], _tokens_per_s(address, number))
        finally:
            stack.stop()
    inside, outside = best.values()
    ratio = inside / outside
    print(f"one request: {inside:.0f} tokens/s in containers, {outside:.0f} outside: {ratio:.2f}")
    return 0 if ratio >= LEAST_RATIO else 1


def _tokens_per_s(address: Address, number: int) -> float:
    body = {
        "prompt": f"Story number {number}. Once upon a time",
        "model": _model(address),
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "cache": "no-store",
    }
    headers = {"Authorization": f"Bearer {address.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        address.url + "/v1/completions", json.dumps(body).encode(), headers
    )
    started_s = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as response:
        answer = json.load(response)
    tokens: int = answer["usage"]["completion_tokens"]
    return tokens / (time.perf_counter() - started_s)


def _model(address: Address) -> str:
    request = urllib.request.Request(
        address.url + "/v1/models", headers={"Authorization": f"Bearer {address.key}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(json.load(response)["data"][0]["id"])


if __name__ == "__main__":
    sys.exit(main())
