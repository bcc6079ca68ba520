"""Request validation: what a request may ask for, checked once before it is admitted."""

from collections.abc import Sequence

from services.generator.engine.config import EngineConfig
from services.generator.engine.errors import RequestError
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.sampling_params import SamplingParams
from services.generator.model.checkpoint.config import ModelConfig


class RequestValidator:
    """Knows the limits that follow from the model and from the KV cache's size."""

    def __init__(self, config: EngineConfig, model_config: ModelConfig, pool: BlockPool) -> None:
        self._config = config
        self._model_config = model_config
        self._pool = pool

    @property
    def max_request_tokens(self) -> int:
        """The most tokens, prompt and output, that one request may reach."""
        return min(self._model_config.context_length, self._pool.num_blocks * self._pool.block_size)

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raise RequestError, naming the field, if this request could not be served."""
        limit = self.max_request_tokens
        vocab_size = self._model_config.vocab_size
        if not prompt_token_ids:
            raise RequestError("prompt", "must not be empty")
        if min(prompt_token_ids) < 0 or max(prompt_token_ids) >= vocab_size:
            raise RequestError("prompt", f"has a token id outside the vocabulary of {vocab_size}")
        if len(prompt_token_ids) >= limit:
            raise RequestError(
                "prompt", f"has {len(prompt_token_ids)} tokens and must leave room below {limit}"
            )
        if len(prompt_token_ids) + params.max_tokens > limit:
            room = limit - len(prompt_token_ids)
            raise RequestError("max_tokens", f"must be at most {room} after this prompt")
        self._validate_sequences(len(prompt_token_ids), params)
        self._validate_token_ids(params)

    def stop_token_ids(self, params: SamplingParams) -> frozenset[int]:
        """Return the tokens that end the request's output."""
        if params.ignore_eos:
            return frozenset(params.stop_token_ids)
        vocab = range(self._model_config.vocab_size)
        eos_token_ids = (i for i in self._model_config.eos_token_ids if i in vocab)
        return frozenset(params.stop_token_ids).union(eos_token_ids)

    def _validate_sequences(self, num_prompt_tokens: int, params: SamplingParams) -> None:
        field = "beam_width" if params.beam_width else "n"
        most = self._config.max_num_seqs
        if params.num_sequences > most:
            raise RequestError(field, f"must be at most {most}")
        if params.beam_width:
            # the beams must fit together, because none can go on without the others
            num_shared = num_prompt_tokens // self._pool.block_size
            num_own = self._pool.num_blocks_for(num_prompt_tokens + params.max_tokens) - num_shared
            if num_shared + params.beam_width * num_own > self._pool.num_blocks:
                raise RequestError(field, "has beams that do not fit into the KV cache together")

    def _validate_token_ids(self, params: SamplingParams) -> None:
        vocab_size = self._model_config.vocab_size
        named = {
            "stop_token_ids": params.stop_token_ids,
            "allowed_token_ids": params.allowed_token_ids,
            "bad_token_ids": params.bad_token_ids,
            "logit_bias": tuple(token_id for token_id, _ in params.logit_bias),
        }
        for field, token_ids in named.items():
            if max(token_ids, default=0) >= vocab_size:
                raise RequestError(field, f"must be below the vocabulary of {vocab_size}")
        held_back = self.stop_token_ids(params) if params.min_tokens > 0 else frozenset()
        banned = held_back.union(params.bad_token_ids)
        if params.allowed_token_ids and banned.issuperset(params.allowed_token_ids):
            raise RequestError("allowed_token_ids", "are all banned or held back by min_tokens")
        if len(banned) >= vocab_size:
            raise RequestError("bad_token_ids", "leave no token to choose")
