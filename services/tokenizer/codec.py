"""Whole texts to token ids and back; knows no chat, no stream and no wire."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from mesh.errors import invalid
from services.tokenizer.checkpoint import Checkpoint, CheckpointError
from services.tokenizer.pieces import Pieces


class Codec:
    """The vocabulary of one checkpoint. Thread-safe: nothing changes after construction.

    The library's batch calls are used for single texts too, because they release the GIL.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"tokenizer.json cannot be used: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.pieces = Pieces.of(self._tokenizer)
        known = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.vocab_size = max(checkpoint.vocab_size or 0, known)
        self.eos_token_ids = _eos_token_ids(self._tokenizer, checkpoint)

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Return the ids of each text; special tokens are added by tokenizer.json's post-processor.

        As in transformers, tokenizer_config.json's `add_bos_token` has no say beside that file.
        """
        encodings = self._tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [encoding.ids for encoding in encodings]

    def decode(self, sequences: Sequence[Sequence[int]], *, skip_special_tokens: bool) -> list[str]:
        """Return the text of each sequence; ids of the model that the tokenizer lacks are left out.

        Raises INVALID_ARGUMENT for an id that is outside the model's vocabulary.
        """
        for i, ids in enumerate(sequences):
            if ids and max(ids) >= self.vocab_size:
                j = next(j for j, token_id in enumerate(ids) if token_id >= self.vocab_size)
                raise invalid(
                    f"sequences[{i}].ids[{j}]",
                    f"sequences[{i}].ids[{j}] is {ids[j]}, but the vocabulary has "
                    f"{self.vocab_size} tokens.",
                )
        return self._tokenizer.decode_batch(
            [list(ids) for ids in sequences], skip_special_tokens=skip_special_tokens
        )


def _eos_token_ids(tokenizer: Tokenizer, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return all end tokens: fine-tunes often change only the tokenizer's, not the configs'."""
    own = tokenizer.token_to_id(checkpoint.special_tokens.get("eos_token", ""))
    ids = checkpoint.eos_token_ids
    return ids if own is None or own in ids else (*ids, own)
