"""transformers' continuous batching, `generate_batch`."""

from bench.peers.generate import load_model, transformers
from bench.peers.protocol import MAX_BATCHED_TOKENS, Prompts, Run, Setup, Timeline, serve

PAGE_SIZE = 32


def load(setup: Setup) -> Run:
    """Load the model; return a run with room for every request."""
    model = load_model(setup)
    pages = -(-setup.max_num_tokens // PAGE_SIZE) + 2

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        timeline = Timeline.begin(len(prompts))
        results = model.generate_batch(
            prompts,
            generation_config=transformers.GenerationConfig(
                max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                page_size=PAGE_SIZE,
                num_blocks=pages * (len(prompts) + 1),
                max_batch_tokens=MAX_BATCHED_TOKENS,
            ),
            record_timestamps=True,
            progress_bar=False,
        )
        # its timestamps are of time.perf_counter too
        timeline.times_s = [list(result.timestamps) for result in results.values()]
        timeline.token_ids = [list(result.generated_tokens) for result in results.values()]
        return timeline

    return run


if __name__ == "__main__":
    serve(load, ("transformers", "torch"))
