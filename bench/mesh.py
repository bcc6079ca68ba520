"""What the mesh adds over the engine called in-process.

    python -m bench.mesh [--model FOLDER | --smollm] [--rounds 3] [--output FILE]

Both sides run the same token-id prompts on the same weights, turn about in one run, and the best
round of each counts. Time to first token is measured at concurrency 1, throughput at 32.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from bench.common.checkpoints import SMOLLM_135M, write_checkpoint
from bench.common.machine import describe
from bench.common.stack import running_stack
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine

ROOT = Path(__file__).parent.parent
PROMPT_TOKENS = 128
OUTPUT_TOKENS = 64
CONCURRENCY = 32
SINGLES = 20
# what a single sequence generates: only its first token is timed
SINGLE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """One side's best round: seconds to the first token (median), tokens per second."""

    first_token_s: float
    tokens_per_s: float


class Prompts:
    """Fresh random prompts, so that no prefix is ever found."""

    def __init__(self, vocab_size: int) -> None:
        self._random = random.Random(0)
        self._vocab_size = vocab_size

    def take(self, count: int) -> list[list[int]]:
        """`count` prompts of PROMPT_TOKENS ids."""
        first = min(300, self._vocab_size // 2)
        return [
            [self._random.randrange(first, self._vocab_size) for _ in range(PROMPT_TOKENS)]
            for _ in range(count)
        ]


class InProcess:
    """The engine without anything around it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def first_token(self, prompt: list[int]) -> float:
        """Seconds from submission to the first token; the sequence then runs to its end."""
        started = time.perf_counter()
        self._add(0, prompt, SINGLE_TOKENS)
        first = 0.0
        while self._engine.has_work:
            for output in self._engine.step():
                if output.token_ids and not first:
                    first = time.perf_counter() - started
        return first

    def throughput(self, prompts: Sequence[list[int]]) -> float:
        """Tokens per second with all prompts at once."""
        started = time.perf_counter()
        for index, prompt in enumerate(prompts):
            self._add(index, prompt, OUTPUT_TOKENS)
        tokens = 0
        while self._engine.has_work:
            tokens += sum(len(output.token_ids) for output in self._engine.step())
        return tokens / (time.perf_counter() - started)

    def _add(self, index: int, prompt: list[int], max_tokens: int) -> None:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self._engine.add(f"{index}", prompt, params)


class OverHttp:
    """The same through gateway, tokenizer, bus and generator."""

    def __init__(self, url: str, key: str, model: str) -> None:
        self._url = f"{url}/v1/completions"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._model = model

    async def first_token(self, session: aiohttp.ClientSession, prompt: list[int]) -> float:
        """Seconds from sending the request to the first chunk with a token."""
        started = time.perf_counter()
        first = 0.0
        async for _ in self._chunks(session, prompt, SINGLE_TOKENS):
            first = first or time.perf_counter() - started
        return first

    async def throughput(
        self, session: aiohttp.ClientSession, prompts: Sequence[list[int]]
    ) -> float:
        """Tokens per second with all prompts at once, as the usage of the answers counts them."""
        started = time.perf_counter()
        tokens = await asyncio.gather(*(self._count(session, prompt) for prompt in prompts))
        return sum(tokens) / (time.perf_counter() - started)

    async def _count(self, session: aiohttp.ClientSession, prompt: list[int]) -> int:
        last = b""
        async for line in self._chunks(session, prompt, OUTPUT_TOKENS):
            last = line
        return int(json.loads(last)["usage"]["completion_tokens"])

    async def _chunks(
        self, session: aiohttp.ClientSession, prompt: list[int], max_tokens: int
    ) -> AsyncIterator[bytes]:
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache": "no-store",
        }
        async with session.post(self._url, json=body, headers=self._headers) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield line[6:]


async def measure(
    engine: InProcess, mesh: OverHttp, prompts: Prompts, rounds: int
) -> tuple[Figures, Figures]:
    """Both sides in turn, `rounds` times; the best round of each."""
    results: dict[str, list[Figures]] = {"engine": [], "mesh": []}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for round_ in range(rounds + 1):
            inside = Figures(
                statistics.median(engine.first_token(p) for p in prompts.take(SINGLES)),
                engine.throughput(prompts.take(CONCURRENCY)),
            )
            singles = [await mesh.first_token(session, p) for p in prompts.take(SINGLES)]
            outside = Figures(
                statistics.median(singles),
                await mesh.throughput(session, prompts.take(CONCURRENCY)),
            )
            if round_ > 0:  # the first warms both up
                results["engine"].append(inside)
                results["mesh"].append(outside)
    return _best(results["engine"]), _best(results["mesh"])


def _best(rounds: list[Figures]) -> Figures:
    return Figures(min(f.first_token_s for f in rounds), max(f.tokens_per_s for f in rounds))


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description="What the mesh adds over the engine.")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "infermesh-tiny")
    parser.add_argument("--smollm", action="store_true", help="random weights, 135M parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "mesh.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model.resolve()
        if arguments.smollm:
            model = smollm(Path(folder) / "smollm-135m-random")
        compare(model, arguments.rounds, arguments.output)


def smollm(folder: Path) -> Path:
    """Write a random checkpoint of SmolLM-135M's shape, its vocabulary of made-up words."""
    write_checkpoint(folder, SMOLLM_135M)
    alphabet = sorted(ByteLevel.alphabet())
    made_up = [f"w{index}" for index in range(SMOLLM_135M["vocab_size"] - len(alphabet))]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *made_up])}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def compare(model: Path, rounds: int, output: Path) -> None:
    """Measures both sides, prints the table and writes it."""
    engine = load_engine(EngineConfig(model=model))
    prompts = Prompts(engine.model_config.vocab_size)
    with running_stack(model) as stack:
        mesh = OverHttp(stack.url, stack.key, model.name)
        inside, outside = asyncio.run(measure(InProcess(engine), mesh, prompts, rounds))
    added_ms = (outside.first_token_s - inside.first_token_s) * 1e3
    share = outside.tokens_per_s / inside.tokens_per_s
    print(f"{'':24}{'engine':>10}{'mesh':>10}")
    first = f"{inside.first_token_s * 1e3:10.2f}{outside.first_token_s * 1e3:10.2f}"
    print(f"{'first token, 1 (ms)':24}{first}   adds {added_ms:.2f} ms")
    rate = f"{inside.tokens_per_s:10.0f}{outside.tokens_per_s:10.0f}"
    print(f"{f'tokens/s, {CONCURRENCY}':24}{rate}   {share:.1%}")
    output.parent.mkdir(exist_ok=True)
    output.write_text(
        json.dumps(
            {
                **describe(),
                "model": model.name,
                "prompt_tokens": PROMPT_TOKENS,
                "output_tokens": OUTPUT_TOKENS,
                "engine": asdict(inside),
                "mesh": asdict(outside),
                "added_first_token_ms": added_ms,
                "throughput_share": share,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
