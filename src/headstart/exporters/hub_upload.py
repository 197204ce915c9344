"""Uploading to a model repository of the Hugging Face hub, with the hub's own client.

    upload(pushable(Path("run")), "anna/cats-dogs", private=True, message="a run")

The repository is created if there is none. All files appear in one commit: large ones are uploaded in pieces, those that the
hub has already are not sent again, and other files in the repository stay. The token is the client's own: HF_TOKEN, or that
of `hf auth login`. HF_ENDPOINT names another hub.

Costs the time of the upload, and 0.3 s for the client. When not to use it: to share a whole run folder. A repository has what
others can load (`exporters.hub_folder`), and no list of your images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import MissingRun, NoCredentials, NotAllowed, RecipeError, RemoteError, Unreachable
from headstart.exporters.export_folder import ExportFolder, is_export
from headstart.exporters.hub_folder import CARD, HUB_FILES, REPO, hub_contents
from headstart.io.folders import MANIFEST, RESTORE, check_listed, read_manifest
from headstart.io.progress import log
from headstart.runs.run_folder import CLASSIFIER, RunFolder

TOKEN_HINT = "Make a token that may write at {endpoint}/settings/tokens; then `hf auth login`, or set HF_TOKEN."


@dataclass(frozen=True)
class UploadedFiles:
    """What is on the hub now: the repository `repo`, whether it was `created`, the URL of its page, and the commit."""

    repo: str
    created: bool
    page: str
    commit: str


def check_repo(repo: str) -> None:
    """Raise `RecipeError` unless `repo` is a name that the hub accepts: OWNER/NAME, or NAME for the user's own."""
    if not re.fullmatch(r"(?:\w[\w.-]*/)?\w[\w.-]{0,95}", repo, re.ASCII) or ".." in repo or "--" in repo:
        raise RecipeError(
            f"repo {repo!r} is not the name of a repository.", hint="Expected OWNER/NAME: anna/cats-dogs."
        )


def pushable(source: Path) -> dict[str, bytes | Path]:
    """Return what to upload for a run, for its folder in the format hub, or for any other export: {name: bytes or file}.

    Each file is checked to be as it was written. Raises `RunError`, `ExportError`, `MissingRun` for anything else.
    """
    if (source / CLASSIFIER).is_file():
        return hub_contents(RunFolder(source))
    if is_export(source):
        export = ExportFolder(source)
        export.check()
        return {name: source / name for name in (*export.files, MANIFEST)}
    if not all((source / name).is_file() for name in (*HUB_FILES, MANIFEST)):
        raise MissingRun(
            f"{source}: cannot be pushed: it is neither a run folder nor an export to ONNX, OpenVINO or the hub.",
            hint="`headstart train` writes a run.",
        )
    listed = read_manifest(source, RESTORE)
    found = {name: check_listed(source, name, listed) for name in HUB_FILES}
    return {**found, CARD: found[CARD].read_bytes()}


def upload(files: Mapping[str, bytes | Path], repo: str, *, private: bool, message: str) -> UploadedFiles:
    """Upload files by name, in one commit. A card gets the name of the repository.

    Raises `Unreachable`, `NoCredentials`, `NotAllowed` (no right to write there; or the repository exists and is
    public although `private` was asked for), `RemoteError`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise Unreachable(f"{repo}: nothing is uploaded while HF_HUB_OFFLINE is set.", hint="Unset it.")
    if get_token() is None:
        raise NoCredentials(
            f"{repo}: uploading needs a token of the Hugging Face hub, and there is none here.",
            hint=TOKEN_HINT.format(endpoint=constants.ENDPOINT),
        )
    api = HfApi(library_name="headstart")
    with _as_remote_error(repo):
        full_name, created = _made(api, repo, private)
        page = f"{constants.ENDPOINT}/{full_name}"
        log.info("Uploading %d files to %s", len(files), page)
        additions = [CommitOperationAdd(name, _filled_in(content, full_name)) for name, content in files.items()]
        done = api.create_commit(full_name, additions, commit_message=message)
    return UploadedFiles(full_name, created, page, done.oid)


def _filled_in(content: bytes | Path, full_name: str) -> bytes | Path:
    return content if isinstance(content, Path) else content.replace(REPO.encode(), full_name.encode())


def _made(api: Any, repo: str, private: bool) -> tuple[str, bool]:
    """Create the repository if there is none; return its full name, and whether it was created.

    A token that may only write to a repository that exists is refused its creation; whether it exists is asked then.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return api.create_repo(repo, private=private or None).repo_id, True
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 402, 403, 409):
            raise
        refused = error
    try:
        full_name = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        public = not api.repo_info(full_name).private
    except HfHubHTTPError:
        raise refused from None
    if private and public:
        raise NotAllowed(
            f"{full_name}: already exists and is public; --private only applies to new repositories.",
            hint="Choose another name, make it private on its page first, or leave out --private.",
        )
    return full_name, False


@contextmanager
def _as_remote_error(repo: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    hint = TOKEN_HINT.format(endpoint=constants.ENDPOINT)
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise NoCredentials(f"{repo}: the hub does not accept the token (HTTP 401).", hint=hint) from error
        if status in (403, 404):
            reason = f"this token may not write there (HTTP {status})"
            raise NotAllowed(f"{repo}: {reason}.", hint=f"Is the owner's name right? {hint}") from error
        said = (error.server_message or "no reason given").strip().rstrip(".")
        raise RemoteError(f"{repo}: the hub answered HTTP {status}: {said}.", hint="Try again later.") from error
    except ValueError as error:  # the hub's check of the card's metadata
        raise RemoteError(f"{repo}: the hub refuses the upload: {_first_line(error)}.") from error
    except RemoteError:
        raise
    except Exception as error:  # requests', httpx's, hf_xet's or OSError, depending on the installed client
        raise Unreachable(
            f"{repo}: no answer from {constants.ENDPOINT} ({_first_line(error)}).",
            hint="Check the network, and run the same command again: files that arrived are not sent twice.",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
