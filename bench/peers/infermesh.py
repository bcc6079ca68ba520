"""Our engine, stepped in this thread as its bridge does."""

from typing import Any

from bench.peers.protocol import Prompts, Run, Setup, Timeline, serve
from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine

KV_CACHE_BYTES = 2**30


def load(setup: Setup) -> Run:
    """Load with the options as fields of EngineConfig; return a run."""
    options: dict[str, Any] = {**setup.options, "dtype": setup.dtype}
    engine = load_engine(
        EngineConfig(
            setup.model, kv_cache_bytes=KV_CACHE_BYTES, num_threads=setup.threads, **options
        )
    )

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        timeline = Timeline.begin(len(prompts))
        for index, prompt in enumerate(prompts):
            engine.add(str(index), prompt, params)
        while engine.has_work:
            for output in engine.step():
                timeline.note(int(output.request_id), output.token_ids)
        engine.check()
        return timeline

    return run


if __name__ == "__main__":
    serve(load, ("torch",))
