"""`headstart push RUN OWNER/NAME`: upload a classifier to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import Unreachable
from headstart.exporters.hub_upload import UploadedFiles, check_repo, pushable, upload
from headstart.io.given_options import as_path
from headstart.io.result_repr import Result


@dataclass(frozen=True, repr=False)
class Pushed(Result):
    """Result of `push`: the repository and its page, and the names of the files."""

    uploaded: UploadedFiles
    files: tuple[str, ...]
    private: bool

    def summary(self) -> str:
        """Return the repository and the number of files."""
        what = "a new repository" if self.uploaded.created else "a new commit in the repository"
        return f"{what}: {self.uploaded.page}, {len(self.files)} files"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `push --json`."""
        u = self.uploaded
        return {"repo": u.repo, "page": u.page, "created": u.created, "commit": u.commit, "files": list(self.files)}

    def table(self) -> str:
        """Format as plain text for a terminal."""
        return f"{self.summary()[0].upper()}{self.summary()[1:]}"


def push(source: Path, repo: str, *, private: bool = False, message: str = "", offline: bool = False) -> Pushed:
    """Upload a classifier to the Hugging Face hub, with a model card that has its metrics.

    A run becomes what timm and transformers load (as `export --to hub` writes it); an export is uploaded as it is. The token
    is that of the hub's client: HF_TOKEN, or `hf auth login`. Example:

        headstart push run anna/cats-dogs --private

    Args:
        source: Run folder written by `headstart train`, or an export.
        repo: Repository, OWNER/NAME; created if it does not exist; otherwise a commit is added.
        private: Make a new repository private.
        message: Description of the commit.
        offline: Make no outgoing connections (this command then fails).

    Raises:
        RunError: the run folder is missing or damaged.
        ExportError: the export is damaged, or the run combines several backbones.
        RecipeError: `repo` is not the name of a repository.
        RemoteError: the hub cannot be reached, or refuses the token or the files.
    """
    source = as_path(source, "source")
    check_repo(repo)
    files = pushable(source)
    if offline:
        raise Unreachable(f"{source} cannot be uploaded to {repo} with --offline.")
    done = upload(files, repo, private=private, message=message or "Upload with headstart")
    return Pushed(done, tuple(files), private)
