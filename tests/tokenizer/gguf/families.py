"""Families of models by the control tokens that tell where their answers end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mesh.gguf_vocabulary import CONTROL, NORMAL, USER_DEFINED
from tests.tokenizer.gguf.vocabularies import CONTEXT_LENGTH

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_QWEN_FILL = "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"


class Family(NamedTuple):
    """Control tokens of a family, and text's; `entries` name some, as `eos_token_id` does."""

    controls: str
    entries: Mapping[str, str]
    texts: str = ""
    defined: str = ""
    kind: str = "gpt2"

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of a file with these tokens and little else."""
        kinds = ((self.controls, CONTROL), (self.texts, NORMAL), (self.defined, USER_DEFINED))
        typed = [(token, kind) for tokens, kind in kinds for token in tokens.split()]
        tokens = [token for token, _ in typed]
        types = [kind for _, kind in typed]
        rest = ["a", "b", "ab", *_BYTES]
        metadata: dict[str, Any] = {
            "general.architecture": "llama",
            "llama.context_length": CONTEXT_LENGTH,
            "tokenizer.ggml.model": self.kind,
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens + rest,
            "tokenizer.ggml.token_type": types + [NORMAL] * len(rest),
            "tokenizer.ggml.scores": [0.0] * (len(tokens) + len(rest)),
            "tokenizer.ggml.merges": ["a b"],
        }
        ids = {token: token_id for token_id, token in enumerate(tokens)}
        return metadata | {
            f"tokenizer.ggml.{entry}_token_id": ids[token] for entry, token in self.entries.items()
        }

    def names(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens with these ids, in an order of their own."""
        tokens = self.metadata()["tokenizer.ggml.tokens"]
        return sorted(tokens[token_id] for token_id in ids)


FAMILIES: Mapping[str, Family] = {
    "llama-3": Family(
        "<|begin_of_text|> <|end_of_text|> <|eom_id|> <|eot_id|> <|start_header_id|>",
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
    ),
    "mistral": Family("<unk> <s> </s> [INST] [/INST]", {"eos": "</s>"}, kind="llama"),
    "llama-2-silent": Family("<unk> <s> </s>", {}, kind="llama"),
    "phi-3": Family(
        "<unk> <s> <|endoftext|> <|assistant|> <|end|> <|user|> <|system|>",
        {"eos": "<|endoftext|>"},
        kind="llama",
    ),
    "gemma": Family(
        "<pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn>",
        {"bos": "<bos>", "eos": "<eos>"},
        kind="llama",
    ),
    "gemma-4": Family(
        "<pad> <eos> <bos> <|turn> <turn|> <|tool_response> <tool_response|>",
        {"bos": "<bos>", "eos": "<eos>"},
        defined="<s> </s>",
    ),
    "qwen": Family(
        f"<|endoftext|> <|im_start|> <|im_end|> {_QWEN_FILL}",
        {"eos": "<|im_end|>"},
        defined="<tool_call> </tool_call>",
    ),
    "smollm": Family(
        "<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep>",
        {"bos": "<|im_start|>", "eos": "<|im_end|>"},
    ),
    "chatml-unmarked": Family("<s>", {"eos": "<s>"}, texts="<|im_start|> <|im_end|>"),
    "granite": Family(
        "<|end_of_text|> <fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <|start_of_role|>",
        {"eos": "<|end_of_text|>"},
    ),
    "deepseek": Family(
        "<\uff5cbegin▁of▁sentence\uff5c> <\uff5cend▁of▁sentence\uff5c> <\uff5cUser\uff5c>",
        {"eos": "<\uff5cUser\uff5c>"},
    ),
    "gpt-oss": Family(
        "<|startoftext|> <|endoftext|> <|return|> <|start|> <|end|> <|message|> <|call|>",
        {"eos": "<|return|>"},
    ),
    "solar-open": Family(
        "<|begin|> <|end|> <|flush|> <|calls|> <|endoftext|>", {"eos": "<|flush|>"}
    ),
    "kimi": Family("[BOS] [EOS] <|im_end|> [EOT] [PAD]", {"eos": "[EOS]"}),
    "command-r": Family(
        "<BOS_TOKEN> <EOS_TOKEN> <|END_OF_TURN_TOKEN|>", {"eos": "<|END_OF_TURN_TOKEN|>"}
    ),
    "smolvlm": Family("<|im_start|> <end_of_utterance>", {"eos": "<|im_start|>"}),
    "minimax": Family("[e~[ ]~b]", {"eos": "]~b]"}),
    "by-entry": Family("<a> <b> <c> <d>", {"eos": "<a>", "eot": "<b>", "eom": "<c>"}),
    "fill-by-entry": Family(
        "<a> <b> <c> <d>", {"eos": "<a>", "fim_pad": "<b>", "fim_rep": "<c>", "fim_sep": "<d>"}
    ),
}
