"""Files from the Hugging Face hub: from its cache on this machine, or downloaded by the hub's own client.

Cached files are used without checking the hub for newer ones: the same name gives the same weights, and a machine
without a network does not wait. The client resumes interrupted downloads, honours HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE
and proxies, and shows its progress on stderr when that is a terminal.

Costs: 0.2 s to import the client, then well under a millisecond per cached file. When not to use it: for anything but
single files by name; `headstart.model.backbones.registry` knows which files.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from headstart.errors import BackboneError, MissingWeights, NoAnswer, WriteError

LIST_HINT = "`headstart backbones` lists those with weights here."
GIVE_HINT = "Give the weights with --weights FILE.safetensors or --weights-dir DIR"
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def cached(repo: str, filename: str, revision: str = "main") -> Path | None:
    """Return a file's path in the hub's cache, or None; opens no socket."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def may_hold(name: str) -> bool:
    """Return whether weights of a full name can be in the hub's cache: in timm's repository, or in another owner's."""
    from huggingface_hub import constants

    kept = [folder.name for folder in Path(constants.HF_HUB_CACHE).glob("models--*")]
    return any(folder == f"models--timm--{name}" or not folder.startswith("models--timm--") for folder in kept)


def may_ask(offline: bool) -> bool:
    """Return whether the hub may be contacted: not with `offline`, and not with ``HF_HUB_OFFLINE``."""
    from huggingface_hub import constants

    return not (offline or constants.HF_HUB_OFFLINE)


def fetch(repo: str, filename: str, revision: str, name: str, offline: bool) -> Path | None:
    """Get a file from the cache, else from the hub; None if the repository has no such file. `name` is for messages.

    Raises `MissingWeights` with the reason for a failure (`NoAnswer` if there was no answer), or `WriteError` if the cache
    cannot be written.
    """
    here = cached(repo, filename, revision)
    if here:
        return here
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if not may_ask(offline):
        if filename == "config.json":
            return None  # timm's own entry has the same information
        unset = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "run once without --offline"
        raise MissingWeights(
            f"{name}: its weights are not on this machine, and offline mode downloads nothing.",
            hint=f"{GIVE_HINT}, or {unset}. {LIST_HINT}",
        )
    try:
        # Ask once first: without an answer, hf_hub_download tries six times in 23 s before it fails.
        with suppress(HfHubHTTPError):  # the download retries or reports error statuses
            get_hf_file_metadata(hf_hub_url(repo, filename, revision=revision), library_name="headstart")
        return Path(hf_hub_download(repo, filename, revision=revision, library_name="headstart"))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the client's error if the hub did not answer
            raise _download_error(name, repo, error.__cause__ or error) from error
        return None
    except Exception as error:  # requests', httpx's or OSError, depending on the installed client
        raise _download_error(name, repo, error) from error


def _download_error(name: str, repo: str, error: BaseException) -> BackboneError | WriteError:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        return WriteError(
            f"{constants.HF_HUB_CACHE}: the hub's cache could not be written: {error.strerror}.",
            hint="Free some space, or set HF_HOME to another folder.",
        )
    kind, status = MissingWeights, getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        reason = f"it is gated, so its terms must be accepted first (HTTP {status})"
        advice = "accept them on its page and log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        reason = f"there is no such repository, or it is not public (HTTP {status})"
        advice = "log in with `hf auth login`"
    elif status is not None:
        reason, advice = f"the hub answered HTTP {status}", "try again later"
    else:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        kind = NoAnswer
        reason, advice = f"no answer from {constants.ENDPOINT} ({first_line})", "check the network and try again"
    return kind(
        f"{name}: its weights are not on this machine, and {repo} could not be downloaded: {reason}.",
        hint=f"{GIVE_HINT}, or {advice}. {LIST_HINT}",
    )


def cache_folder() -> Path:
    """Return the hub's cache, which may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cache_entries() -> list[tuple[str, Path, Path]]:
    """Return (name, config, weights) of each of timm's models that is complete in the cache; opens no socket."""
    places = []
    for repo in sorted(cache_folder().glob("models--timm--*")):
        name = repo.name.removeprefix("models--timm--")
        weights, config = cached(f"timm/{name}", "model.safetensors"), cached(f"timm/{name}", "config.json")
        if weights and config:
            places.append((name, config, weights))
    return places
