"""Models from the Hugging Face hub: one GGUF file, or a folder of safetensors.

HF_ENDPOINT, HF_TOKEN and the library's other settings hold. It compares sizes, not hashes.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cli.models.wheel import PullError

_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>[\w./ -]+\.gguf))?")
# of a folder: what our services read
_WANTED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "model.safetensors.index.json",
)  # fmt: skip
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


class Reference(NamedTuple):
    """`ORG/NAME`, or one of its GGUF files."""

    repo: str
    file: str | None

    @classmethod
    def parse(cls, text: str) -> "Reference | None":
        """Return what a name means, None where it is no reference to the hub."""
        match = _REFERENCE.fullmatch(text)
        return None if match is None else cls(match["repo"], match["file"])


def choose_files(sizes: Mapping[str, int], reference: Reference) -> list[str]:
    """Return which of a repository's files make the model; raises PullError with the choices."""
    if reference.file is not None:
        shards = _shards(sizes, reference.file)
        if not shards:
            raise PullError(f"{reference.repo} has no file {reference.file}")
        return shards
    weights = [name for name in sizes if name.endswith(".safetensors") and "/" not in name]
    if weights and "config.json" in sizes:
        return [*(name for name in _WANTED if name in sizes), *sorted(weights)]
    models = sorted({_shards(sizes, name)[0] for name in sizes if name.endswith(".gguf")})
    if len(models) == 1:
        return _shards(sizes, models[0])
    if not models:
        raise PullError(
            f"{reference.repo} has neither GGUF files nor safetensors with a config.json"
        )
    megabytes = {name: sum(sizes[each] for each in _shards(sizes, name)) / 1e6 for name in models}
    lines = [f"  {reference.repo}:{name}  {megabytes[name]:,.0f} MB" for name in models]
    raise PullError("\n".join([f"{reference.repo} has several models, name one of them:", *lines]))


def _shards(sizes: Mapping[str, int], name: str) -> list[str]:
    """Return all files of the model that one of its files names."""
    if not _SHARD.search(name):
        return [name] if name in sizes else []
    stem = _SHARD.sub("", name)
    return sorted(each for each in sizes if _SHARD.search(each) and _SHARD.sub("", each) == stem)


def pull_from_hub(reference: Reference, folder: Path) -> None:
    """Write the model's files into the folder; raises PullError."""
    # takes a second to import, and most commands do without
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
        print(f"pulling {reference.repo} from the hub", file=sys.stderr)
    try:
        info = huggingface_hub.HfApi().model_info(reference.repo, files_metadata=True)
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
        for name in choose_files(sizes, reference):
            huggingface_hub.hf_hub_download(
                reference.repo, name, revision=info.sha, local_dir=folder
            )
        shutil.rmtree(folder / ".cache")  # the library's notes
    except PullError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        reasons = {401: "asks for a token (HF_TOKEN)", 403: "asks for a licence to be accepted"}
        reason = reasons.get(status or 0, "is not there" if status == 404 else f"gave {status}")
        raise PullError(f"the hub's {reference.repo} {reason}") from error
    except Exception as error:  # those of its HTTP library are no part of its interface
        raise PullError(f"the hub cannot be reached: {error}") from error
