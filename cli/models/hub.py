"""Models from the Hugging Face hub: one GGUF file, or a folder of safetensors.

HF_ENDPOINT, HF_TOKEN and the library's other settings hold. The library's own download begins anew
after its process was killed, so files are fetched by `resume`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.hf_api import RepoSibling

from cli.models.errors import PullError
from cli.models.hub_files import HubFile, choose_files
from cli.models.progress import bytes_in, following
from cli.models.reference import Reference, is_safe_path
from cli.models.resume import fetch, part_name


def pull_from_hub(reference: Reference, folder: Path) -> None:
    """Write the model's files into the folder, checked; raises PullError.

    What an earlier pull left there is gone on with.
    """
    try:
        huggingface_hub.get_session()  # which reads the settings of proxies
    except ValueError as error:
        raise PullError(f"the hub cannot be asked: {error}") from error
    with _refusals(reference):
        commit, files = _files(reference)
        _keep(folder, files)
        total = sum(each.num_bytes for each in files)
        token = huggingface_hub.get_token()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with following(str(reference), total, lambda: bytes_in(folder)):
            for each in files:
                url = huggingface_hub.hf_hub_url(reference.repo, each.path, revision=commit)
                fetch(each, url, headers, folder)


def _files(reference: Reference) -> tuple[str, list[HubFile]]:
    """Return the repository's commit, and the model's files in it."""
    timeout_s = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = huggingface_hub.HfApi().model_info(
            reference.repo, files_metadata=True, timeout=timeout_s
        )
        commit = info.sha
        siblings = {
            each.rfilename: each for each in info.siblings or () if is_safe_path(each.rfilename)
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, OSError):  # those of HTTP are
            raise
        problem = "does not answer as a hub does: see HF_ENDPOINT"
        raise PullError(f"{constants.ENDPOINT} {problem}") from error
    names = choose_files({name: each.size or 0 for name, each in siblings.items()}, reference)
    if commit is None:
        raise PullError(f"the hub names no commit of {reference.repo}")
    return commit, [_file(reference.repo, siblings[name]) for name in names]


def _file(repo: str, sibling: RepoSibling) -> HubFile:
    digest = sibling.blob_id if sibling.lfs is None else sibling.lfs.sha256
    size = sibling.size if sibling.lfs is None else sibling.lfs.size
    if digest is None or size is None:
        raise PullError(f"the hub says no hash of {repo}:{sibling.rfilename} to check it by")
    return HubFile(sibling.rfilename, size, digest.lower(), sibling.lfs is not None)


def _keep(folder: Path, files: list[HubFile]) -> None:
    """Remove what is not of these files: of another commit, or of another version of ours."""
    kept = {name for each in files for name in (each.name, part_name(each))}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()


@contextmanager
def _refusals(reference: Reference) -> Iterator[None]:
    """Raise PullError for the faults of the network and of the hub, and for no others."""
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise PullError(f"the hub {_refusal(reference, error)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise PullError("the hub is not asked: HF_HUB_OFFLINE is set") from error
    except httpx2.TimeoutException as error:
        problem = f"did not answer within {constants.HF_HUB_DOWNLOAD_TIMEOUT} s"
        raise PullError(f"the hub at {constants.ENDPOINT} {problem}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PullError(f"the hub at {constants.ENDPOINT} cannot be reached: {reason}") from error


def _refusal(reference: Reference, error: errors.HfHubHTTPError) -> str:
    """Return what the hub said, in words that tell what would help."""
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f"keeps {reference.repo} behind terms: accept them there, and set HF_TOKEN"
    if status == 401:
        return f"has no {reference.repo}, or keeps it behind a token: set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no longer has this revision of {reference.repo}: pull again"
    if isinstance(error, errors.EntryNotFoundError):
        return f"has no such file: {reference}"
    if status == 404:
        return f"has no {reference.repo}"
    if status == 429:
        return "gets too many requests from here: later, or with HF_TOKEN"
    return f"answered {status} for {reference}"
