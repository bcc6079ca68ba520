"""A real file's vocabulary against llama.cpp's ids, and its chat template."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench.peers.llama_cpp_prebuilt import modules_folder
from mesh.errors import MeshError
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.codec import Codec
from services.tokenizer.gguf.checkpoint import read_checkpoint
from tests.tokenizer.gguf.llama_cpp import tokenized
from tests.tokenizer.gguf.odd_strings import odd_strings

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]
TURN = "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.skipif(
    not modules_folder().is_dir(), reason=f"node-llama-cpp is not in {modules_folder()}"
)
def test_ids_are_those_of_llama_cpp(model: Path, tmp_path: Path) -> None:
    """In two thousand odd strings and a turn."""
    texts = [*odd_strings(), TURN]
    tokenizer = Tokenizer.from_str(read_checkpoint(str(model)).tokenizer_json)
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    (tmp_path / "model.gguf").symlink_to(model)
    expected = tokenized(modules_folder(), tmp_path / "model.gguf", texts).ids
    different = [
        (text, encoding.ids, ids)
        for text, encoding, ids in zip(texts, encodings, expected, strict=True)
        if encoding.ids != ids
    ]
    assert not different, f"{len(different)} of {len(texts)}, the first: {different[0]}"


def test_texts_come_back(model: Path) -> None:
    """As they went in, in several scripts, with blanks, lines and code."""
    codec = Codec(read_checkpoint(str(model)))
    texts = [
        *("  two blanks,\ttabs\n\n\nlines  ", "naïve café, Straße", "русский, ελληνικά, العربية"),
        *("中文、日本語", "😀👍🏽 🇩🇪", "for i in range(10):\n    print(f'{i:02}')  # <b>\n"),
    ]
    encoded = codec.encode(texts, add_special_tokens=False)
    assert codec.decode(encoded, skip_special_tokens=False) == texts


def test_a_chat_template_renders(smollm2_file: Path) -> None:
    """With a system's message of its own, and a turn's ends as control tokens."""
    encoder = ChatEncoder(read_checkpoint(str(smollm2_file)))
    chat = [Message("user", "Hello!")]
    prompt = encoder.encode(chat, add_generation_prompt=True)
    turn = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.text.endswith(turn) and "<|im_start|>system" in prompt.text
    assert prompt.ids.count(2) == 2


def test_a_base_model_takes_no_chat(gemma_file: Path) -> None:
    """Its file has no template, and none is made up."""
    encoder = ChatEncoder(read_checkpoint(str(gemma_file)))
    assert not encoder.has_template
    with pytest.raises(MeshError, match="no chat template"):
        encoder.encode([Message("user", "Hello!")], add_generation_prompt=True)
