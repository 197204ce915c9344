"""`headstart submit SLUG FILE`: submit a file to a competition, and report its score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import MissingData, UnknownSlug, Unreachable
from headstart.io.result_repr import Result
from headstart.io.text_table import plain
from headstart.kaggle_api.client import SubmissionStatus, parse_slug, submit_file


@dataclass(frozen=True, repr=False)
class SubmitResult(Result):
    """Result of `submit`."""

    submitted: SubmissionStatus

    def summary(self) -> str:
        """Return the file and its score."""
        s = self.submitted
        return f"{s.file}: {f'score {s.score}' if s.score else s.status}"

    def to_json(self) -> dict[str, Any]:
        """Return the document of `submit --json`."""
        s = self.submitted
        return {
            "slug": str(s.slug),
            "file": s.file,
            "message": s.message,
            "ref": s.ref,
            "status": s.status,
            "score": s.score,
            "private_score": s.private_score,
            "error": s.error,
        }

    def table(self) -> str:
        """Format as plain text for a terminal."""
        s = self.submitted
        private = f", private score {s.private_score}" if s.private_score else ""
        outcome = {
            "complete": f"Score: {s.score or 'not given'}{private}",
            "error": f"Kaggle could not score it: {s.error or 'no reason given'}",
            "pending": "It is still being scored.",
        }
        result = outcome.get(s.status, "Its score is unknown.")
        return f"{plain(s.file)}: {s.message or 'submitted'} (number {s.ref})\n{result}\nSee {s.slug.page}/submissions"


def submit(slug: str, file: Path, *, message: str = "", wait: float = 120.0, offline: bool = False) -> SubmitResult:
    """Submit a file to a Kaggle competition, and wait for its score.

    Credentials are those of Kaggle's own client. Example:

        headstart submit dogs-vs-cats-redux-kernels-edition submission.csv

    Args:
        slug: Name of a competition, or the URL of its page.
        file: CSV to submit.
        message: Description of the submission; by default the file name.
        wait: Maximum seconds to wait for the score.
        offline: Make no outgoing connections (this command then fails).

    Raises:
        RemoteError: Kaggle cannot be reached, does not know the slug, or refuses the submission.
        MissingExtra: the kaggle package is not installed.
        MissingData: the file does not exist or is empty.
    """
    competition, file = parse_slug(slug), Path(file)
    if competition.kind != "competition":
        raise UnknownSlug(
            f"{competition} is a dataset; only competitions accept submissions.", hint="Give the name of a competition."
        )
    if not file.is_file() or not file.stat().st_size:
        there = "is empty" if file.is_file() else "there is no such file"
        raise MissingData(
            f"{file}: {there}.", hint="headstart predict RUN FOLDER --sample-submission SAMPLE.csv --out FILE"
        )
    if offline:
        raise Unreachable(f"{file} cannot be submitted to {competition} with --offline.", hint=competition.page)
    return SubmitResult(submit_file(competition, file, message or file.name, wait=wait))
