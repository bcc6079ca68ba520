"""OpenVINO GenAI's ContinuousBatchingPipeline, with weights, activations and cache of 16 bits."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from bench.peers.protocol import MAX_BATCHED_TOKENS, Prompts, Run, Setup, Timeline, serve

KV_CACHE_GIB = 2
PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, str]) -> None:
    """Export with optimum-cli; 16-bit weights stay as they are."""
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino"]
    command += ["--model", str(checkpoint), "--task", "text-generation-with-past"]
    command += ["--weight-format", "fp16", str(folder)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def load(setup: Setup) -> Run:
    """Compile the pipeline for the CPU; return a run that steps it in this thread."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = KV_CACHE_GIB
    scheduler.max_num_seqs = setup.max_num_seqs
    scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
    precision = setup.options.get("precision") or PRECISIONS[setup.dtype]
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        setup.model,
        scheduler,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "INFERENCE_NUM_THREADS": setup.threads,
        },
    )
    next_id = 0

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        nonlocal next_id
        config = openvino_genai.GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, ignore_eos=True
        )
        tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        timeline = Timeline.begin(len(prompts))
        handles = []
        for tensor in tensors:
            handles.append(pipeline.add_request(next_id, tensor, config))
            next_id += 1
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for index, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        timeline.note(index, output.generated_ids)
        return timeline

    return run


if __name__ == "__main__":
    serve(load, ("openvino", "openvino-genai", "optimum-intel"), prepare)
