"""transformers' static `generate`: no admission, equal lengths, all start and end together."""

from typing import Any

import torch
import transformers as typed_transformers

from bench.peers.protocol import Prompts, Run, Setup, Timeline, serve

# Its public functions are only partly annotated, which strict checking would refuse one by one.
transformers: Any = typed_transformers


def load_model(setup: Setup) -> Any:
    """Return the model, quiet and without an end-of-sequence token."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(setup.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        setup.model, dtype=getattr(torch, setup.dtype)
    )
    model.generation_config.eos_token_id = None
    return model.eval()


def load(setup: Setup) -> Run:
    """Load the model; return a run that notes each step as it ends."""
    model = load_model(setup)

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        timeline = Timeline.begin(len(prompts))

        def note(input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            for index, token_id in enumerate(input_ids[:, -1].tolist()):
                timeline.note(index, [token_id])
            return torch.zeros(len(input_ids), dtype=torch.bool)

        ids = torch.tensor(prompts)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([note]),
        )
        return timeline

    return run


if __name__ == "__main__":
    serve(load, ("transformers", "torch"))
