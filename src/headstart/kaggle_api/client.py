"""Kaggle: the archive of a competition or a dataset, and submissions, through its official client.

    got = download(parse_slug("dogs-vs-cats-redux-kernels-edition"))     # a zip in the cache, complete and verified
    unpack(got.path, Path("data")); forget(got)

The client (package `kaggle`) finds its own credentials: KAGGLE_API_TOKEN or ~/.kaggle/access_token, KAGGLE_USERNAME and
KAGGLE_KEY, kaggle.json in KAGGLE_CONFIG_DIR, ~/.kaggle or ~/.config/kaggle. It runs in a separate process (`worker`),
so that no key is ever in this one, and an unresponsive server costs a minute instead of hanging. Starting it takes
about a second. Public datasets need no account. Not for single files of a competition: it downloads the whole archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import headstart
from headstart import errors
from headstart.errors import HeadstartError, RemoteError, UnknownSlug, Unreachable
from headstart.io.files import cache_dir
from headstart.io.progress import bar, log
from headstart.kaggle_api import http_download
from headstart.kaggle_api.http_download import RetryPolicy

SITE = "https://www.kaggle.com"
PATIENT = RetryPolicy()
MORE_PATIENCE = 15.0  # seconds that the worker may be silent, beyond its own timeouts
UPLOAD_SPEED = 50_000  # bytes per second: a slower upload counts as dead
MEGA = 1_000_000

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_SITE = r"(?:https?://)?(?:www\.)?kaggle\.com/"
_COMPETITION = re.compile(rf"(?:{_SITE}(?:competitions|c)/)?({_NAME})(?:/.*)?")
_DATASET = re.compile(rf"(?:{_SITE}(?:datasets/)?)?({_NAME})/({_NAME})(?:/versions/(\d+))?(?:/.*)?")
_PAGES = frozenset({"c", "code", "competitions", "datasets", "discussions", "models", "organizations"})
"""First parts of the addresses of other pages on Kaggle, which no user can have as a name."""
_LOUD = ("VERBOSE", "VERBOSE_OUTPUT")
"""Variables that make the client print all headers."""


@dataclass(frozen=True)
class Slug:
    """A competition (`owner` is empty) or a dataset on Kaggle; `version` 0 is the newest."""

    name: str
    owner: str = ""
    version: int = 0

    @property
    def kind(self) -> str:
        """'competition' or 'dataset'."""
        return "dataset" if self.owner else "competition"

    @property
    def page(self) -> str:
        """Its page on the web."""
        place = f"datasets/{self.owner}/{self.name}" if self.owner else f"competitions/{self.name}"
        return f"{SITE}/{place}{f'/versions/{self.version}' if self.version else ''}"

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}" if self.owner else self.name


@dataclass(frozen=True)
class DownloadResult:
    """A complete archive in the cache, `checked` by 'md5', 'crc32c', 'size', or only the end of transfer ('length')."""

    slug: Slug
    path: Path
    size: int
    sha256: str
    checked: str


@dataclass(frozen=True)
class SubmissionStatus:
    """Kaggle's reply: `status` is complete, pending, error or unknown; scores are text, '' if not given."""

    slug: Slug
    file: str
    message: str
    ref: int
    status: str
    score: str
    private_score: str
    error: str


def parse_slug(text: str) -> Slug:
    """Parse a slug, or the address of a page. Raises `UnknownSlug` if it is neither.

    >>> parse_slug("dogs-vs-cats"), parse_slug("https://www.kaggle.com/c/dogs-vs-cats/data").kind
    (Slug(name='dogs-vs-cats', owner='', version=0), 'competition')
    >>> parse_slug("https://www.kaggle.com/datasets/tongpython/cat-and-dog")
    Slug(name='cat-and-dog', owner='tongpython', version=0)
    """
    cleaned = text.strip().partition("?")[0].partition("#")[0].rstrip("/")
    paged = "kaggle.com/" in cleaned
    match = _COMPETITION.fullmatch(cleaned)
    if match and (paged or "/" not in cleaned) and re.match(rf"{_SITE}(?:competitions|c)/|[^/]*$", cleaned):
        return Slug(match.group(1))
    match = _DATASET.fullmatch(cleaned)
    is_page = match is not None and match.group(1).lower() in _PAGES
    if match and not is_page and (paged or re.fullmatch(rf"{_NAME}/{_NAME}(?:/versions/\d+)?", cleaned)):
        return Slug(match.group(2), match.group(1), int(match.group(3) or 0))
    raise UnknownSlug(
        f"{text!r} is neither a competition nor a dataset on Kaggle.",
        hint=f"Give dogs-vs-cats-redux-kernels-edition, tongpython/cat-and-dog, or the page's URL ({SITE}/...).",
    )


def download(slug: Slug, *, offline: bool = False, patience: RetryPolicy = PATIENT) -> DownloadResult:
    """Download the archive into the cache, or resume an interrupted download.

    Raises `RemoteError` (with `offline`, `Unreachable` at once), `MissingExtra`, `WriteError`.
    """
    if offline:
        raise Unreachable(f"{slug} needs a download, but --offline is set.", hint=f"Download it by hand: {slug.page}")
    key = hashlib.sha256(f"{slug.kind} {slug} {slug.version}".encode()).hexdigest()[:16]
    place = cache_dir() / "downloads" / f"{slug.name}-{key}.zip"
    log.info("Downloading %s from %s", slug, slug.page)
    done = _ask(
        {"do": "download", "place": str(place)}, slug, patience, patience.silent + patience.connect + MORE_PATIENCE
    )
    return DownloadResult(slug=slug, path=place, size=done["size"], sha256=done["sha256"], checked=done["checked"])


def forget(downloaded: DownloadResult) -> None:
    """Remove an archive from the cache. Raises `WriteError`."""
    http_download.forget(downloaded.path)


def submit_file(
    slug: Slug, file: Path, message: str, *, wait: float = 120.0, patience: RetryPolicy = PATIENT
) -> SubmissionStatus:
    """Submit a file to a competition, and wait at most `wait` seconds for the score. Raises as `download`."""
    silence = patience.silent + patience.connect + MORE_PATIENCE + file.stat().st_size / UPLOAD_SPEED
    command = {"do": "submit", "file": str(file.resolve()), "message": message, "wait": wait}
    done = _ask(command, slug, patience, silence)
    return SubmissionStatus(slug=slug, file=str(file), **done)


# The process that talks to Kaggle


def _ask(command: Mapping[str, Any], slug: Slug, patience: RetryPolicy, silence: float) -> dict[str, Any]:
    """Run the worker, show its messages and return its result; kill it after `silence` seconds without a message."""
    request = {**asdict(slug), "kind": slug.kind, "page": slug.page, "patience": asdict(patience), **command}
    try:
        process = subprocess.Popen(
            _command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        )
    except OSError as error:
        raise RemoteError(f"The process for Kaggle cannot be started: {error.strerror}.") from error
    try:
        with suppress(OSError):  # it died; said where its answers end
            if process.stdin is not None:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()  # open until the end: it ends with this process
        return _followed(_lines(process, silence), silence)
    finally:
        process.kill()
        process.communicate()


def _followed(lines: Iterator[dict[str, Any] | None], silence: float) -> dict[str, Any]:
    """Process the worker's messages, up to the last one."""
    with _megabytes() as progress:
        for line in lines:
            if line is None:
                raise Unreachable(
                    f"Kaggle did not respond for {silence:.0f} s.",
                    hint="The data so far is kept: run the same command again to resume.",
                )
            if "done" in line:
                done: dict[str, Any] = line["done"]
                return done
            if "failed" in line:
                kind = getattr(errors, line["failed"], RemoteError)
                raise (kind if issubclass(kind, HeadstartError) else RemoteError)(line["message"], hint=line["hint"])
            if "note" in line:
                log.info("%s", line["note"])
            else:
                progress(line["seen"], line["of"])
    raise RemoteError("The process for Kaggle ended without a result.", hint="Run the same command again.")


def _lines(process: subprocess.Popen[bytes], silence: float) -> Iterator[dict[str, Any] | None]:
    """Yield the worker's messages line by line; None if it is silent for too long."""
    messages: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        for line in process.stdout or ():
            messages.put(line)
        messages.put(b"")

    threading.Thread(target=listen, daemon=True, name="messages of the Kaggle worker").start()
    while True:
        try:
            line = messages.get(timeout=silence)
        except queue.Empty:
            yield None
            return
        if not line:
            return
        yield json.loads(line)


class _megabytes:
    """A progress bar in megabytes that appears once the size is known."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._advance: Callable[[int], None] = lambda n: None
        self._shown = 0

    def __enter__(self) -> Callable[[int, int], None]:
        return self._update

    def _update(self, size: int, total: int) -> None:
        if total > 0 and self._bar is None:
            self._bar = bar("Downloading (MB)", -(-total // MEGA))
            self._advance = self._bar.__enter__()
        if total > 0 and size // MEGA != self._shown:
            self._advance(size // MEGA - self._shown)
            self._shown = size // MEGA

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def _command() -> list[str]:
    """Return the worker's command line, with this process's own headstart and nothing from the current folder."""
    root = str(Path(headstart.__file__).parent.parent)
    code = """import sys
if sys.argv[1] not in sys.path:
    sys.path.insert(0, sys.argv[1])
from headstart.kaggle_api.worker import main
main()"""
    return [sys.executable, "-P", "-c", code, root]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _LOUD}
