"""llama.cpp through llama-cpp-python's low-level API: all sequences share each decode."""

import ctypes
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as typed_llama_cpp
import numpy as np

from bench.peers.gguf_file import write_gguf
from bench.peers.protocol import MAX_BATCHED_TOKENS, Prompts, Run, Setup, Timeline, serve

# A wrapper around C functions whose annotations differ from what they return.
llama_cpp: Any = typed_llama_cpp
MODEL = "model.gguf"
CONTEXT_STEP = 256
"""A sequence's context is a multiple of this."""

Entry = tuple[int, int, int, bool]
"""Sequence, token id, position, and whether its logits are wanted."""


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, str]) -> None:
    """Write the GGUF file."""
    write_gguf(checkpoint, folder / MODEL, options["weights"])


def load(setup: Setup) -> Run:
    """Load the model; return a run that prefills whole prompts, then decodes all together."""
    context = _Context(setup)

    def run(prompts: Prompts, max_tokens: int) -> Timeline:
        context.clear()
        timeline = Timeline.begin(len(prompts))
        for batch in _prefills(prompts):
            for sequence, token_id in context.decode(batch):
                timeline.note(sequence, [token_id])
        for step in range(max_tokens - 1):
            batch = [
                (sequence, timeline.token_ids[sequence][-1], len(prompt) + step, True)
                for sequence, prompt in enumerate(prompts)
            ]
            for sequence, token_id in context.decode(batch):
                timeline.note(sequence, [token_id])
        return timeline

    return run


class _Context:
    """A model and its KV cache of 16 bits, a stream per sequence."""

    def __init__(self, setup: Setup) -> None:
        llama_cpp.llama_backend_init()
        path = str(setup.model / MODEL).encode()
        self._model = llama_cpp.llama_model_load_from_file(
            path, llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError("llama.cpp does not load the file")
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._num_tokens = llama_cpp.llama_vocab_n_tokens(vocab)
        params = llama_cpp.llama_context_default_params()
        room = -(-setup.max_num_tokens // CONTEXT_STEP) * CONTEXT_STEP
        params.n_ctx = room * setup.max_num_seqs
        params.n_seq_max = setup.max_num_seqs
        params.n_batch = params.n_ubatch = MAX_BATCHED_TOKENS
        params.n_threads = params.n_threads_batch = setup.threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context")
        self._batch = llama_cpp.llama_batch_init(MAX_BATCHED_TOKENS, 0, 1)

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def decode(self, entries: Sequence[Entry]) -> list[tuple[int, int]]:
        """Compute one batch; return each wanted sequence's likeliest next token."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for index, (sequence, token_id, position, wanted) in enumerate(entries):
            batch.token[index] = token_id
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = wanted
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        return [
            (entry[0], self._likeliest(index)) for index, entry in enumerate(entries) if entry[3]
        ]

    def _likeliest(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        array = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(array, (self._num_tokens,)).argmax())


def _prefills(prompts: Prompts) -> Iterator[list[Entry]]:
    """Yield batches of whole prompts, which must fit a batch each."""
    per_batch = MAX_BATCHED_TOKENS // max(map(len, prompts))
    numbered = iter(enumerate(prompts))
    while group := list(itertools.islice(numbered, per_batch)):
        yield [
            (sequence, token_id, position, position == len(prompt) - 1)
            for sequence, prompt in group
            for position, token_id in enumerate(prompt)
        ]


if __name__ == "__main__":
    serve(load, ("llama-cpp-python", "gguf"), prepare)
