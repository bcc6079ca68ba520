"""Where detokenizing should run: in the caller, or in the tokenizer service.

    python -m bench.detokenize [--model FOLDER] [--rounds 3] [--output FILE]

This process plays a gateway that gets one token for each of 1, 32 or 256 sequences per engine
step and needs their texts. Latency is measured with a pause between steps, as an engine has one;
throughput and CPU time of this process back to back. All ways run turn about in one run, and all
must give the same texts.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from bench.common.machine import describe
from cli.servers import free_port
from mesh import health, rpc
from mesh.pb import tokenizer_pb2 as pb
from mesh.pb.tokenizer_pb2_grpc import TokenizerStub
from services.tokenizer.detokenize import Detokenizer
from services.tokenizer.pieces import REPLACEMENT, Pieces

ROOT = Path(__file__).parent.parent
SIZES = (1, 32, 256)
PAUSE_S = 0.005
PACED_STEPS = 250
FAST_TOKENS = 20_000
READY_LIMIT_S = 30.0
TEXT = (
    "The lighthouse keeper counted 1,871 steps, wrote them down and slept. "
    "Zürich, naïve café, Ærøskøbing; 灯台守は階段を数えた。 Смотритель маяка 🦊👩‍🚀 done.\n"
) * 4

Texts = dict[str, str]


class Way(Protocol):
    """Turns one step's new token of each sequence into text."""

    async def step(self, tokens: dict[str, int]) -> Texts:
        """Return new text by sequence; sequences without any may be left out."""


class InProcess:
    """(a) The service's own detokenizer, called in this process."""

    def __init__(self, pieces: Pieces) -> None:
        self._detokenizer = Detokenizer(pieces)

    async def step(self, tokens: dict[str, int]) -> Texts:
        push = self._detokenizer.push
        return {name: push(name, (token,)).text for name, token in tokens.items()}


class Library:
    """(a') The tokenizers library's DecodeStream, called in this process."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._streams: dict[str, DecodeStream] = defaultdict(
            lambda: DecodeStream(skip_special_tokens=True)
        )

    async def step(self, tokens: dict[str, int]) -> Texts:
        return {
            name: self._streams[name].step(self._tokenizer, token) or ""
            for name, token in tokens.items()
        }


class Stream:
    """(b) The service over one multiplexed stream: one message per step."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.Detokenize()

    async def step(self, tokens: dict[str, int]) -> Texts:
        request = pb.DetokenizeRequest()
        for name, token in tokens.items():
            request.deltas.add(sequence_id=name, token_ids=(token,))
        await self._call.write(request)
        reply = await self._call.read()
        return {delta.sequence_id: delta.text for delta in reply.deltas}


class Unary:
    """(c) One Decode per step: the caller keeps the ids since the last whole character.

    That is enough for byte-level vocabularies; others would need more context, and cost more.
    """

    def __init__(self, stub: Any) -> None:
        self._decode = stub.Decode
        self._windows: dict[str, list[int]] = defaultdict(list)

    async def step(self, tokens: dict[str, int]) -> Texts:
        request = pb.DecodeRequest(skip_special_tokens=True)
        for name, token in tokens.items():
            self._windows[name].append(token)
            request.sequences.add(ids=self._windows[name])
        reply = await self._decode(request, timeout=5)
        decoded = zip(tokens, reply.texts, strict=True)
        texts = {name: text for name, text in decoded if not text.endswith(REPLACEMENT)}
        for name in texts:
            self._windows[name].clear()
        return texts


@dataclass(frozen=True, slots=True)
class Figures:
    """One way at one number of sequences."""

    way: str
    sequences: int
    step_p50_us: float
    step_p99_us: float
    tokens_per_s: float
    caller_cpu_us_per_token: float


class Samples:
    """What the rounds of one way at one number of sequences add up to."""

    def __init__(self) -> None:
        self.steps_s: list[float] = []
        self.tokens = 0
        self.wall_s = 0.0
        self.cpu_s = 0.0

    async def round(self, way: Way, sequences: int, ids: list[int]) -> Texts:
        """Add one round, paced and then at full speed; return the paced part's texts."""
        texts: Texts = defaultdict(str)
        steps = _steps(sequences, ids)
        for tokens in itertools.islice(steps, PACED_STEPS):
            await asyncio.sleep(PAUSE_S)
            started = time.perf_counter()
            new = await way.step(tokens)
            self.steps_s.append(time.perf_counter() - started)
            for name, text in new.items():
                texts[name] += text
        started, cpu = time.perf_counter(), time.process_time()
        for tokens in itertools.islice(steps, max(300, FAST_TOKENS // sequences)):
            await way.step(tokens)
            self.tokens += len(tokens)
        self.wall_s += time.perf_counter() - started
        self.cpu_s += time.process_time() - cpu
        return texts

    def figures(self, way: str, sequences: int) -> Figures:
        """Over all rounds."""
        ordered = sorted(self.steps_s)
        return Figures(
            way,
            sequences,
            step_p50_us=round(ordered[len(ordered) // 2] * 1e6, 1),
            step_p99_us=round(ordered[len(ordered) * 99 // 100] * 1e6, 1),
            tokens_per_s=round(self.tokens / self.wall_s),
            caller_cpu_us_per_token=round(self.cpu_s / self.tokens * 1e6, 2),
        )


def _steps(sequences: int, ids: list[int]) -> Iterator[dict[str, int]]:
    """Each sequence repeats the same text, each from its own place in it."""
    names = [f"sequence-{n:032x}" for n in range(sequences)]
    for position in itertools.count():
        yield {name: ids[(position + 7 * n) % len(ids)] for n, name in enumerate(names)}


@asynccontextmanager
async def _service(model: str) -> AsyncIterator[Any]:
    address = f"127.0.0.1:{free_port()}"
    environ = {"INFERMESH_MODEL": model, "INFERMESH_TOKENIZER_PORT": address.split(":")[1]}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.tokenizer"),
        env={**os.environ, **environ, "INFERMESH_LOG_LEVEL": "WARNING"},
        cwd=ROOT,
    )
    try:
        deadline = time.monotonic() + READY_LIMIT_S
        while not await asyncio.to_thread(health.probe, address):
            assert process.returncode is None, "the tokenizer service ended"
            assert time.monotonic() < deadline, "the tokenizer service is not ready"
        async with rpc.channel(address) as channel:
            yield TokenizerStub(channel)
    finally:
        process.terminate()
        await process.wait()


async def measure(model: str, rounds: int) -> list[Figures]:
    """All ways at all numbers of sequences; fails where two ways differ in a text."""
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    pieces = Pieces.of(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    samples: dict[tuple[str, int], Samples] = defaultdict(Samples)
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(_service(model))
        for _, sequences in itertools.product(range(rounds), SIZES):
            ways: dict[str, Way] = {
                "in-process, own": InProcess(pieces),
                "in-process, library": Library(tokenizer),
                "service, stream": Stream(stub),
                "service, unary": Unary(stub),
            }
            texts = [
                await samples[name, sequences].round(way, sequences, ids)
                for name, way in ways.items()
            ]
            assert all(text == texts[0] for text in texts), "the ways differ in their texts"
    return [sample.figures(*key) for key, sample in sorted(samples.items(), key=lambda s: s[0][1])]


def main() -> None:
    """Measures, prints a table, writes the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "models" / "infermesh-tiny"))
    parser.add_argument("--rounds", type=int, default=3)
    default = ROOT / "bench" / "results" / "detokenize.json"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.model, arguments.rounds))
    print(f"{'way':<20} {'sequences':>9} {'p50 us':>8} {'p99 us':>8} {'tokens/s':>9} {'CPU us':>7}")
    for f in figures:
        print(
            f"{f.way:<20} {f.sequences:>9} {f.step_p50_us:>8.1f} {f.step_p99_us:>8.1f} "
            f"{f.tokens_per_s:>9.0f} {f.caller_cpu_us_per_token:>7.2f}"
        )
    results = {**describe(), "load": os.getloadavg()[0], "figures": [asdict(f) for f in figures]}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
