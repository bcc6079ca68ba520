"""The tokenizer and the chat form: byte-level BPE, single digits, a space after special tokens.

The space makes a name the same tokens at the head of an answer as in the middle of a passage, so
that copying it is one operation. `render_chat` is the training form; the template says the same.
"""

from collections.abc import Iterator, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.corpus.documents import Document, Documents

BEGIN, END = "<|begin|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
PAD = "<|pad|>"
SPECIAL = (PAD, BEGIN, END, *ROLES.values())
SIZE = 3072
# Words take the space before them; digits and marks stand alone.
PIECES = r" ?\p{N}| ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}\p{N}]|\s+(?!\S)|\s+"
TEMPLATE = (
    "{{- '<|begin|>' -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('Unknown role: ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|> ' + message['content'] | trim + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def render_chat(system: str, turns: Sequence[tuple[str, str]]) -> str:
    """Return a whole conversation in the training form."""
    parts = [BEGIN]
    if system.strip():
        parts.append(f"{ROLES['system']} {system.strip()}{END}")
    for question, reply in turns:
        parts.append(f"{ROLES['user']} {question.strip()}{END}")
        parts.append(f"{ROLES['assistant']} {reply.strip()}{END}")
    return "".join(parts)


def prompt(system: str, question: str) -> str:
    """Return a conversation up to the point where the model has to reply."""
    return render_chat(system, ((question, ""),)).removesuffix(f" {END}")


def text_of(document: Document) -> str:
    """Return a document in the training form."""
    return render_chat(
        document.system, [(each.question, each.reply) for each in document.exchanges]
    )


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that must be there."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return found


def train(seed: int, documents: int = 12_000) -> Tokenizer:
    """Learn a tokenizer from `documents` fresh training documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed, documents), trainer)
    return tokenizer


def _texts(seed: int, documents: int) -> Iterator[str]:
    source = Documents(f"{seed}-tokenizer")
    for _ in range(documents):
        document = source.document()
        yield " " + document.system
        for each in document.exchanges:
            yield " " + each.question
            yield " " + each.reply
