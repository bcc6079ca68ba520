"""Small vocabularies of the three kinds, model folders around them, and a running service."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from cli.servers import free_port
from mesh.lifecycle import Lifecycle, State
from mesh.pb.tokenizer_pb2_grpc import TokenizerStub
from services.tokenizer.__main__ import start
from services.tokenizer.config import TokenizerSettings

if TYPE_CHECKING:
    from mesh.pb.tokenizer_pb2_grpc import TokenizerAsyncStub

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "a café in Zürich, naïve 日本語 text 😀!",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>"]
CHATML = (
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)

MakeFolder = Callable[..., Path]
Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """GPT-2's and Llama 3's kind, with an added token that is not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(" added é token", special=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


@pytest.fixture(scope="session")
def sentencepiece() -> Tokenizer:
    """Llama 2's kind: a space before the text, unknown characters as byte tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.train_from_iterator(CORPUS[:1], BpeTrainer(vocab_size=120, special_tokens=SPECIAL))
    data = json.loads(tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    first = len(vocabulary)
    vocabulary.update({f"<0x{byte:02X}>": first + byte for byte in range(256)})
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


@pytest.fixture(scope="session")
def metaspace() -> Tokenizer:
    """T5's and Mistral's kind."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, BpeTrainer(vocab_size=150, special_tokens=SPECIAL))
    return tokenizer


@pytest.fixture(params=["byte_level", "sentencepiece", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each kind in turn."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_folder(tmp_path: Path, byte_level: Tokenizer) -> MakeFolder:
    """Writes a model folder; keywords are entries of its tokenizer_config.json."""

    def make(tokenizer: Tokenizer = byte_level, files: Any = None, **tokenizer_config: Any) -> Path:
        folder = tmp_path / "tiny-model"
        folder.mkdir(exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {"max_position_embeddings": 512, "vocab_size": 1024, "eos_token_id": 2}
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        given = {
            "config.json": json.dumps(config),
            "tokenizer_config.json": json.dumps(special | tokenizer_config),
        }
        for name, text in (given | (files or {})).items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts the real service on a free port; returns a stub and its life cycle."""
    lifecycle = Lifecycle()
    channels = []

    async def begin(folder: Path, **settings: Any) -> "tuple[TokenizerAsyncStub, Lifecycle]":
        port = free_port()
        await start(TokenizerSettings(model=str(folder), port=port, **settings), lifecycle)
        lifecycle.advance(State.READY)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        channels.append(channel)
        stub: Any = TokenizerStub(channel)
        return stub, lifecycle

    yield begin
    for channel in channels:
        await channel.close()
    await lifecycle.close()
