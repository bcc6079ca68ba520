"""Our engine, stepped in this thread as its bridge does.

Option `model` is a file to serve instead of the checkpoint, beside its folder.
"""

from typing import Any

from bench.peers.protocol import Prompts, Run, Setup, Timeline, serve
from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine

KV_CACHE_BYTES = 2**31


def load(setup: Setup) -> Run:
    """Load with the options as fields of EngineConfig; return a run."""
    options: dict[str, Any] = {"dtype": setup.dtype, **setup.options}
    file = options.pop("model", None)
    model = setup.model if file is None else setup.model.parent / file
    if file is not None:
        del options["dtype"]  # it says itself
    engine = load_engine(
        EngineConfig(model, kv_cache_bytes=KV_CACHE_BYTES, num_threads=setup.threads, **options)
    )
    is_written = False

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        nonlocal is_written
        params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        timeline = Timeline.begin(len(prompts))
        for index, prompt in enumerate(prompts):
            engine.add(str(index), prompt, params)
        while engine.has_work:
            for output in engine.step():
                timeline.note(int(output.request_id), output.token_ids)
        engine.check()
        if not is_written:
            # a new page comes slowly from the system: only in a server's first minutes
            engine._runner.clear(range(engine.stats().num_blocks_total))
            is_written = True
        return timeline

    return run


if __name__ == "__main__":
    serve(load, ("torch",))
