"""The child process that talks to Kaggle: one request on stdin, lines of JSON on stdout, then it ends.

On import, the official client prints, exits, makes folders and logs in; it reads its settings once per process, and in
verbose mode prints every header, including the key. This process contains all of that: the client's output is
discarded, and only headstart's own error messages leave it. Keys and signed addresses stay here. Importing the client
takes 0.6 s.

A line is ``{"seen": bytes, "of": bytes or -1}`` for progress, ``{"note": text}``, or the last one: ``{"done": {...}}``
or ``{"failed": class, "message", "hint"}``. Not for direct use: see `headstart.kaggle_api.client`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

from headstart.errors import (
    BadDownload,
    HeadstartError,
    MissingExtra,
    NoCredentials,
    NotAllowed,
    RemoteError,
    UnknownSlug,
    Unreachable,
)
from headstart.io.text_table import plain
from headstart.kaggle_api.http_download import AGAIN, RetryPolicy, as_words, fetch, retry_after, trouble

T = TypeVar("T")
PLACES = (
    "Create a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or ~/.kaggle/access_token, or "
    "put a kaggle.json from there into ~/.kaggle (or KAGGLE_CONFIG_DIR)."
)
LONGEST_WORDS = 200  # characters of the server's messages that are shown
UNREACHED = 3  # failed connections to Kaggle before giving up
SCORED_AFTER = 2.0  # seconds between two queries for a score


def main() -> None:
    """Serve the one request on stdin."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=(os.dup(0),), daemon=True).start()

    def say(line: dict[str, Any]) -> None:
        try:
            print(json.dumps(line), file=lines, flush=True)
        except OSError:
            os._exit(1)  # the parent is gone

    try:
        worker = _Worker(asked, say)
        say({"done": worker.download() if asked["do"] == "download" else worker.submit()})
    except HeadstartError as error:
        say(as_words(error))
    except Exception as error:
        say(as_words(RemoteError(f"The kaggle client failed ({type(error).__name__}).", hint=_UPDATE)))


def _end_with_parent(stdin: int) -> None:
    """End when stdin does: the parent is gone, perhaps killed, and the download must be unlocked for the next one.

    Reads the descriptor, because the client closes `sys.stdin` when it exits, which would wait for a read on it.
    """
    while os.read(stdin, 1):
        pass
    os._exit(1)


_UPDATE = "A newer version may be available: pip install --upgrade 'headstart[kaggle]'"


class _Worker:
    """One logged-in client, and its request: `kind` (competition or dataset), `owner`, `name`, and so on."""

    def __init__(self, asked: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
        self.asked, self.say = asked, say
        self.what: str = f"{asked['owner']}/{asked['name']}" if asked["owner"] else asked["name"]
        self.patience = RetryPolicy(**asked["patience"])
        self.api = _client()
        self.logged_in = False
        self.logged_in = self._call(self._log_in)
        if not self.logged_in and asked["kind"] == "competition":
            raise _no_credentials(self.api)

    @property
    def user(self) -> str:
        return plain(str(self.api.config_values.get("username", "")))

    def download(self) -> dict[str, Any]:
        """Download the archive to the requested path."""
        got = fetch(
            lambda: self._call(self._locate),
            Path(self.asked["place"]),
            what=self.what,
            patience=self.patience,
            seen=lambda size, total: self.say({"seen": size, "of": total}),
            note=lambda text: self.say({"note": text}),
        )
        return {"size": got.size, "sha256": got.sha256, "checked": got.checked}

    def submit(self) -> dict[str, Any]:
        """Upload a submission and wait for its score, at most for the requested time."""
        made = self._call(self._submit)
        self.say({"note": f"{plain(made.message)[:LONGEST_WORDS]}."})
        scored = self._scored(int(made.ref))
        return {
            "message": plain(made.message)[:LONGEST_WORDS],
            "ref": int(made.ref),
            "status": scored.status.name.lower() if scored else "unknown",
            "score": plain(scored.public_score or "") if scored else "",
            "private_score": plain(scored.private_score or "") if scored else "",
            "error": plain(scored.error_description or "")[:LONGEST_WORDS] if scored else "",
        }

    def _scored(self, ref: int) -> Any:
        """Return the submission once it is scored or the time is up; None if Kaggle does not respond."""
        until = time.monotonic() + self.asked["wait"]
        try:
            submission = self._call(lambda: self._submission(ref))
            while submission.status.name == "PENDING" and time.monotonic() < until:
                self._wait(SCORED_AFTER)
                submission = self._call(lambda: self._submission(ref))
        except HeadstartError as error:
            self.say({"note": f"Submitted, but the score is unknown: {error.message}"})
            return None
        return submission

    # Calls to the client

    def _log_in(self) -> bool:
        try:
            self.api.authenticate()
        except SystemExit:  # how it reports missing credentials
            return False
        return True

    def _locate(self) -> Any:
        """Return the request for the archive: that of the last redirect, with the headers the client sends there."""
        with self.api.build_kaggle_client() as client:
            if self.asked["kind"] == "competition":
                from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

                request = ApiDownloadDataFilesRequest()
                request.competition_name = self.asked["name"]
                answer = client.competitions.competition_api_client.download_data_files(request)
            else:
                from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

                request = ApiDownloadDatasetRequest()
                request.owner_slug, request.dataset_slug = self.asked["owner"], self.asked["name"]
                request.dataset_version_number = self.asked["version"] or None
                answer = client.datasets.dataset_api_client.download_dataset(request)
            answer.close()  # `fetch` downloads it, with timeouts, and resumes
            asked = answer.request
        secure = all(step.url.startswith("https:") for step in answer.history)
        if answer.history and secure and not asked.url.startswith("https:"):
            raise BadDownload(
                f"{self.what}: Kaggle redirects to an unencrypted address, which headstart does not follow.",
                hint="Try again later.",
            )
        return asked

    def _submit(self) -> Any:
        made = self.api.competition_submit(self.asked["file"], self.asked["message"], self.asked["name"], quiet=True)
        if made.message == self.api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
            raise Unreachable(
                f"{self.what}: the submission could not be uploaded.",
                hint="Nothing was submitted; run the same command again.",
            )
        return made

    def _submission(self, ref: int) -> Any:
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

        with self.api.build_kaggle_client() as client:
            request = ApiGetSubmissionRequest()
            request.ref = ref
            return client.competitions.competition_api_client.get_submission(request)

    # Failures

    def _call(self, do: Callable[[], T]) -> T:
        """Call the client; retry after temporary failures (network, 429, 5xx); convert others to a `HeadstartError`."""
        import requests

        for left in reversed(range(self.patience.tries)):
            self.say({"seen": 0, "of": -1})
            pause: float | None = None
            try:
                return do()
            except requests.HTTPError as error:
                answer = error.response
                passing = {429} if do == self._submit else AGAIN  # never submit twice
                moved = answer is not None and bool(answer.history)  # the response is the storage's
                if answer is None or not left or not (moved or answer.status_code in passing):
                    self._refused(answer)
                pause = retry_after(answer.headers)
                why = "too many requests" if answer.status_code == 429 else f"a server problem ({answer.status_code})"
            except requests.exceptions.JSONDecodeError:
                raise RemoteError(
                    "Kaggle's answer is not JSON.", hint="A proxy or a login page may be in between."
                ) from None
            except requests.RequestException as error:
                if self.patience.tries - left >= UNREACHED or do == self._submit:
                    raise Unreachable(
                        f"Kaggle cannot be reached: {trouble(error)}.",
                        hint="Check the network, then run the same command again.",
                    ) from None
                why = trouble(error)
            if pause:
                self.say({"note": f"Kaggle: {why}; retrying in {min(pause, self.patience.longest):.0f} s."})
            self._wait(self.patience.pause * 2 ** (self.patience.tries - left - 1) if pause is None else pause)
        raise Unreachable("No request was sent to Kaggle.")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + min(seconds, self.patience.longest)
        while (left := until - time.monotonic()) > 0:
            self.say({"seen": 0, "of": -1})
            time.sleep(min(left, 5.0))

    def _refused(self, answer: Any) -> NoReturn:
        """Raise the error that a response's code means."""
        code = answer.status_code if answer is not None else 0
        page = self.asked["page"]
        if answer is not None and answer.history:
            raise Unreachable(f"{self.what}: Kaggle's storage answered with code {code}.", hint="Try again later.")
        if code == 401 or (code == 403 and not self.logged_in):
            raise _not_accepted(self.api) if self.logged_in else _no_credentials(self.api)
        if code == 404:
            kind = "competition" if self.asked["kind"] == "competition" else "dataset"
            raise UnknownSlug(f"Kaggle has no {kind} {self.what!r}.", hint=f"Compare with the page's URL: {page}")
        why, user = self._words(answer), self.user or "you"
        if self.asked["do"] == "submit" and 400 <= code < 429:
            raise NotAllowed(
                f"Kaggle refuses a submission to {self.what!r} from {user}: {why}",
                hint=f"For rules to accept, limits and deadlines see {page}",
            )
        if code == 403 and self.asked["kind"] == "competition":
            raise NotAllowed(
                f"Kaggle denies {user} access to {self.what!r}: {why}",
                hint=f"Accept the rules at {page}/rules (and verify your account if asked), then run the command again.",
            )
        if code == 403:
            raise NotAllowed(
                f"Kaggle denies {user} access to {self.what!r}: {why}",
                hint=f"The dataset does not exist or is private: see {page}",
            )
        raise Unreachable(f"Kaggle answered with code {code}: {why}", hint="Try again later.")

    def _words(self, answer: Any) -> str:
        """Return the server's message as a printable sentence, without keys."""
        try:
            text = str(answer.json().get("message") or "")
        except (ValueError, AttributeError):
            text = ""
        for name in ("key", "token", "api_token"):
            text = text.replace(str(self.api.config_values.get(name) or "\0"), "(key)")
        text = plain(text)[:LONGEST_WORDS].strip() or "it gives no reason"
        return text if text.endswith((".", "!", "?")) else f"{text}."


def _client() -> Any:
    """Return the client, not logged in. Raises `MissingExtra`."""
    try:
        _keep_bodies_at_home()  # first: the client logs in when it is imported
        import google_crc32c  # noqa: F401  verifies downloads: fail before one, not after it
        from kaggle.api.kaggle_api_extended import KaggleApi
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Kaggle needs the package {error.name!r}, which is not installed.", hint="pip install 'headstart[kaggle]'"
        ) from None
    except OSError as error:
        raise RemoteError(
            f"The kaggle client cannot create its settings folder: {error.strerror}.",
            hint="Set KAGGLE_CONFIG_DIR to a writable folder.",
        ) from None
    return KaggleApi()


def _keep_bodies_at_home() -> None:
    """Stop this process from following redirects that would send a body, which may contain a token, to another host.

    On such a redirect, requests strips credentials from the headers, but resends the body after a 307 or a 308.
    """
    import requests

    usual = requests.Session.get_redirect_target

    def target(session: requests.Session, answer: requests.Response) -> str | None:
        place: str | None = usual(session, answer)
        here = urlsplit(answer.url)
        there = urlsplit(urljoin(answer.url, place or ""))
        moved = (here.scheme, here.netloc) != (there.scheme, there.netloc)
        return None if place and moved and answer.status_code in (307, 308) else place

    requests.Session.get_redirect_target = target  # type: ignore[method-assign, assignment]


def _no_credentials(api: Any) -> NoCredentials:
    from kagglesdk import get_access_token_from_env

    file = Path(api.config)
    token, source = get_access_token_from_env()
    if token:
        return NoCredentials(f"Kaggle does not accept the token in {source}.", hint=PLACES)
    if file.is_file():
        return NoCredentials(f"{file}: is not a kaggle.json with a username and a key.", hint=PLACES)
    return NoCredentials("No Kaggle credentials were found.", hint=PLACES)


def _not_accepted(api: Any) -> NoCredentials:
    legacy = "key" in api.config_values and "token" not in api.config_values
    source = "KAGGLE_KEY" if "KAGGLE_KEY" in os.environ else str(api.config)
    which = f"the key of {plain(str(api.config_values.get('username')))!r} ({source})" if legacy else "the token"
    return NoCredentials(f"Kaggle does not accept {which}.", hint=PLACES)


if __name__ == "__main__":
    main()
