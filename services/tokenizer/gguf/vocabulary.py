"""A GGUF vocabulary as tokenizer.json has it, but for its model and the steps around that."""

from collections.abc import Mapping
from typing import Any

from mesh.gguf import GGUFError
from mesh.gguf_vocabulary import CONTROL, TOKENS, UNKNOWN, USER_DEFINED, GGUFVocabulary

Json = dict[str, Any]
_ADDED_TYPES = (CONTROL, UNKNOWN, USER_DEFINED)
# of Phi-3's tokens, those that do not take the blanks behind them along
_PHI_3_KEEPS_BLANKS = ("<unk>", "<s>", "<|endoftext|>")


class Vocabulary(GGUFVocabulary):
    """Tokens that are all different, and the entries beside them; raises GGUFError."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        if len(self.ids) < len(self.tokens) - self.tokens.count(""):
            i = next(i for i, each in enumerate(self.tokens) if each and self.ids[each] != i)
            raise GGUFError(TOKENS, f"has {self.tokens[i]!r} twice")

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry by its name after `tokenizer.ggml.`."""
        return self._metadata.get(f"tokenizer.ggml.{name}", default)

    @property
    def architecture(self) -> str:
        """The model's kind, by the file's name of it."""
        return str(self._metadata.get("general.architecture"))

    def token(self, kind: str) -> str | None:
        """Return the file's `bos`, `eos`, `unknown` or the like."""
        token_id = self.token_id(kind)
        return None if token_id is None else self.tokens[token_id]

    def json(self, model: Json, adds_bos: bool, **parts: Json | None) -> Json:
        """Return the whole of tokenizer.json; `adds_bos` counts where the file does not say."""
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_tokens(),
            "post_processor": self._post_processor(adds_bos),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self.ids,
                **model,
            },
            **parts,
        }

    def _added_tokens(self) -> list[Json]:
        """Return those that text is searched for before anything else; controls are special."""
        # the format has no place for this: llama.cpp goes by the model's name, too
        name = str(self._metadata.get("general.name", "")).lower()
        is_phi_3 = "phi-3" in name or "phi3" in name
        return [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": is_phi_3 and token not in _PHI_3_KEEPS_BLANKS,
                "normalized": False,
                "special": self.types[token_id] != USER_DEFINED,
            }
            for token, token_id in self.ids.items()
            if self.types[token_id] in _ADDED_TYPES
        ]

    def _post_processor(self, adds_bos: bool) -> Json | None:
        bos, eos = self._around("bos", adds_bos), self._around("eos", False)
        around = [token for token in (bos, eos) if token is not None]
        if not around:
            return None

        def template(sequence: str, type_id: int) -> list[Json]:
            middle = {"Sequence": {"id": sequence, "type_id": type_id}}
            sides = [
                [] if token is None else [{"SpecialToken": {"id": token, "type_id": type_id}}]
                for token in (bos, eos)
            ]
            return [*sides[0], middle, *sides[1]]

        return {
            "type": "TemplateProcessing",
            "single": template("A", 0),
            "pair": template("A", 0) + template("B", 1),
            "special_tokens": {
                token: {"id": token, "ids": [self.ids[token]], "tokens": [token]}
                for token in around
            },
        }

    def _around(self, kind: str, default: bool) -> str | None:
        """Return the token at that side of a text, None where the file wants none."""
        is_added, token = self.get(f"add_{kind}_token"), self.token(kind)
        if is_added and token is None:
            raise GGUFError(f"tokenizer.ggml.add_{kind}_token", f"is set, but there is no {kind}")
        return token if (default if is_added is None else is_added) else None
