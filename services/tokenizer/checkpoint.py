"""The files of a Hugging Face model folder that matter for text; knows nothing of encoding."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import CannotStartError

REVISION_DIGITS = 16
GROUNDING_FILE = "grounding.json"
SPECIAL_TOKENS = tuple(
    f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)


class CheckpointError(CannotStartError):
    """The model folder lacks something or holds something unusable; says what and where."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model folder.

    `special_tokens` maps names such as `bos_token` to their text. `vocab_size` is the model's own,
    which may be larger than the tokenizer's; None where config.json is silent. `grounding_json` is
    the text of the folder's file of that name, None where it has none.
    """

    id: str
    revision: str
    tokenizer_json: str
    chat_template: str | None
    special_tokens: dict[str, str]
    context_length: int
    vocab_size: int | None
    eos_token_ids: tuple[int, ...]
    grounding_json: str | None = None

    @classmethod
    def read(cls, folder: str, model_id: str = "") -> "Checkpoint":
        """Read a folder; raise CheckpointError. The id defaults to the folder's name."""
        path = Path(folder).resolve()
        tokenizer_json = read_text(path / "tokenizer.json")
        if tokenizer_json is None:
            raise CheckpointError(f"{path / 'tokenizer.json'} does not exist")
        config = _object(path / "config.json")
        tokenizer_config = _object(path / "tokenizer_config.json")
        context_length = config.get("max_position_embeddings")
        if not isinstance(context_length, int) or context_length < 1:
            raise CheckpointError(f"{path / 'config.json'} has no usable max_position_embeddings")
        template_file, template = _chat_template(path, tokenizer_config)
        revision = _digest(
            tokenizer_json, read_text(path / "tokenizer_config.json") or "", template_file
        )
        return cls(
            id=model_id or path.name,
            revision=revision,
            tokenizer_json=tokenizer_json,
            chat_template=template,
            special_tokens=_special_tokens(path, tokenizer_config),
            context_length=context_length,
            vocab_size=config.get("vocab_size"),
            eos_token_ids=_eos_token_ids(config, _object(path / "generation_config.json")),
            grounding_json=read_text(path / GROUNDING_FILE),
        )


def read_text(path: Path) -> str | None:
    """Return a file's text, None where there is none; raise CheckpointError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path) or "{}")
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def _digest(*texts: str) -> str:
    """Hash over the texts; their lengths are hashed too, so that borders count."""
    digest = hashlib.sha256()
    for data in (text.encode() for text in texts):
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:REVISION_DIGITS]


def _chat_template(path: Path, tokenizer_config: dict[str, Any]) -> tuple[str, str | None]:
    """Return the template file's text, and the template: a file wins over tokenizer_config.json."""
    jinja = read_text(path / "chat_template.jinja")
    if jinja is not None:
        return jinja, jinja
    legacy = read_text(path / "chat_template.json")
    if legacy is not None:
        return legacy, _named(_object(path / "chat_template.json").get("chat_template"))
    return "", _named(tokenizer_config.get("chat_template"))


def _named(template: Any) -> str | None:
    """Of several named templates the one named `default`, as in transformers."""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(path: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    entries = _object(path / "special_tokens_map.json") | tokenizer_config
    tokens = {name: _content(entries.get(name)) for name in SPECIAL_TOKENS}
    return {name: text for name, text in tokens.items() if text is not None}


def _content(token: Any) -> str | None:
    """Return a special token's text, given as such or as an object with its `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _eos_token_ids(*configs: dict[str, Any]) -> tuple[int, ...]:
    """All end tokens that any of the files names, in order, each once."""
    token_ids: dict[int, None] = {}
    for config in configs:
        named = config.get("eos_token_id")
        for token_id in named if isinstance(named, list) else [named]:
            if isinstance(token_id, int):
                token_ids[token_id] = None
    return tuple(token_ids)
