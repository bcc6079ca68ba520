"""Which tokens a request had, remembered for requests whose answers the cache may hold.

The cache is asked by token ids, and tokenizing is what an overloaded gateway must not do: what was
asked before can be looked up without it.
"""

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

from services.gateway.domain.generation import GenerationRequest, Model
from services.gateway.domain.request import Conversation, InferenceRequest, Prompts

MAX_ENTRIES = 4096
MAX_TOKENS = 500_000
# a key holds its request's text, which a template may have cut: it is weighed as tokens, too
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class MemoKey:
    """All that a generation request is made of; its model stands for the revision as well."""

    tenant: str
    model: Model
    request: InferenceRequest

    @classmethod
    def of(cls, tenant: str, model: Model, request: InferenceRequest) -> "MemoKey | None":
        """Return the key of a request; None where its tokens are not its own to determine."""
        prompt = request.prompt
        if isinstance(prompt, Conversation) and prompt.retrieval is not None:
            # a collection changes
            return None
        if isinstance(prompt, Prompts) and prompt.echo and prompt.token_ids:
            # the tokenizer has the text to repeat
            return None
        # a priority changes no answer
        options = dataclasses.replace(request.options, priority=0)
        return cls(tenant, model, dataclasses.replace(request, options=options))


class RequestMemo:
    """The requests remembered last, bounded in entries and in the tokens they name."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_tokens: int = MAX_TOKENS) -> None:
        self._max_entries = max_entries
        self._max_tokens = max_tokens
        self._requests: OrderedDict[MemoKey, GenerationRequest] = OrderedDict()
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def num_tokens(self) -> int:
        """Token ids that the remembered requests hold, and their text as tokens."""
        return self._num_tokens

    def get(self, key: MemoKey) -> GenerationRequest | None:
        """Return the request that a key had, which thereby is the last to be forgotten."""
        request = self._requests.get(key)
        if request is not None:
            self._requests.move_to_end(key)
        return request

    def put(self, key: MemoKey, request: GenerationRequest) -> None:
        """Remember a request; forget what was not asked for longest."""
        older = self._requests.pop(key, None)
        if older is not None:
            self._num_tokens -= _weight(key, older)
        self._requests[key] = request
        self._num_tokens += _weight(key, request)
        while len(self._requests) > self._max_entries or self._num_tokens > self._max_tokens:
            self._num_tokens -= _weight(*self._requests.popitem(last=False))


def _weight(key: MemoKey, request: GenerationRequest) -> int:
    prompt = key.request.prompt
    if isinstance(prompt, Conversation):
        texts = [text for m in prompt.messages for text in (m.content, m.name)]
    else:
        texts = [*prompt.texts]
    num_characters = sum(map(len, [*texts, *request.stop]))
    return _num_token_ids(request) + num_characters // CHARACTERS_PER_TOKEN


def _num_token_ids(request: GenerationRequest) -> int:
    sampling = request.sampling
    return sum(
        map(
            len,
            (
                request.prompt_token_ids,
                sampling.logit_bias,
                sampling.allowed_token_ids,
                sampling.bad_token_ids,
                sampling.stop_token_ids,
            ),
        )
    )
