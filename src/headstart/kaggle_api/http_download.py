"""Download one file over HTTP: resume it after interruptions, verify all of it, and only then give it its final name.

The data so far is beside the final name as ``NAME.partial``, with ``NAME.partial.json``, which identifies the complete
file (size, ETag, checksum). Data is appended only while the server confirms that the file is still the same; otherwise
the download restarts. The last byte of a complete file is downloaded again, so that one that was left there weeks ago
is not taken for the newest. At the end the size is compared, and the MD5 or CRC-32C if the server gives one
(``x-goog-hash``, ``Content-MD5``; an ETag is not a checksum). Memory stays flat; verification reads the file once (SHA-256
and MD5: 500 MB/s).

This module follows no redirects and never logs in: `locate` returns the whole request, so that its credentials go only
to the host that it was made for. Addresses are never shown, since a signed one is a key. Not for many small files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from headstart.errors import BadDownload, HeadstartError, Unreachable
from headstart.io.files import partial_file, read_json, remove_files, take_name, write_json

if TYPE_CHECKING:
    import requests

PIECE = 1 << 18
BLOCK = 1 << 21
"""Bytes read at a time for a checksum."""
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Codes after which the same address may be retried."""
GONE = frozenset({301, 302, 303, 307, 308, 400, 401, 403, 404, 410})
"""Codes of an address that no longer leads to the file: a new one is requested."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, in seconds, and how often to retry."""

    connect: float = 15.0
    silent: float = 30.0
    """Longest wait between two pieces of a response."""
    pause: float = 0.5
    """Pause before the second try without progress; doubled before each further one."""
    longest: float = 60.0
    """Longest single pause, whatever Retry-After says."""
    tries: int = 7
    """Tries in a row without a new byte."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as described by its server: `size` in bytes (-1 unknown), its version, checksums ('' unknown)."""

    size: int
    etag: str
    modified: str
    md5: str
    crc32c: str

    @property
    def validator(self) -> str:
        """For If-Range: the strong ETag, else the date; '' if a partial file cannot be matched to the whole."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass(frozen=True)
class FetchResult:
    """A complete file, `checked` by 'md5', 'crc32c', 'size', or 'length' if only the transfer's end was stated."""

    path: Path
    size: int
    sha256: str
    checked: str


Locate = Callable[[], "requests.PreparedRequest"]
ProgressCallback = Callable[[int, int], None]


def fetch(
    locate: Locate,
    final: Path,
    *,
    what: str,
    patience: RetryPolicy = RetryPolicy(),
    seen: ProgressCallback = lambda size, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> FetchResult:
    """Download a file to `final`; resume from the files that an earlier call left there or beside it.

    `locate` returns the request for it, and is called again when an address has expired. `seen(bytes so far, total or
    -1)` is called after each piece and during each pause. `what` names the file in errors. Raises `Unreachable`,
    `BadDownload` (checksum or size differ from those announced, twice), `WriteError`, and what `locate` raises; then
    `final` is absent.
    """
    partial, facts = final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.partial.json")
    if final.exists() and not partial.exists():
        take_name(final, partial)  # complete, if the server confirms that it has not changed
    for last in (False, True):
        with partial_file(partial) as file:
            transfer = _Transfer(
                locate=locate, file=file, facts=facts, what=what, patience=patience, seen=seen, note=note
            )
            transfer.run()
            got = _checked(file, transfer.remote, final)
        if got is not None:
            take_name(partial, final)
            return got
        remove_files(partial, facts)
        if not last:
            note(f"{what}: the checksum differs from the one announced; downloading again from the start.")
    raise BadDownload(
        f"{what}: its bytes differ from those that the server announced (checksum), twice; nothing was kept.",
        hint="A proxy may be changing the data. Try again later, or over another network.",
    )


def forget(final: Path) -> None:
    """Remove a downloaded file and its description."""
    remove_files(final, final.with_name(f"{final.name}.partial.json"))


def describe(headers: Mapping[str, str]) -> RemoteFile:
    """Return the file described by the headers of a complete response (200)."""
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and "chunked" not in headers.get("Transfer-Encoding", "") else -1
    hashes = dict(re.findall(r"(md5|crc32c)=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", "")))
    md5, crc32c = _digest(hashes.get("md5", headers.get("Content-MD5", "")), 16), _digest(hashes.get("crc32c", ""), 4)
    return RemoteFile(
        size=size,
        etag=headers.get("ETag", ""),
        modified=headers.get("Last-Modified", ""),
        md5=md5,
        crc32c=crc32c,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait according to Retry-After, a number or a date; None if it is missing or neither.

    >>> retry_after({"Retry-After": "12"}), retry_after({"Retry-After": "soon"})
    (12.0, None)
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def _digest(text: str, size: int) -> str:
    """Convert a checksum from base64 to hexadecimal, '' if it does not have `size` bytes."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == size else ""


class _Transfer:
    """One attempt at one file: requests it, resumes after interruptions, restarts if the file has changed."""

    def __init__(
        self,
        locate: Locate,
        file: BinaryIO,
        facts: Path,
        what: str,
        patience: RetryPolicy,
        seen: ProgressCallback,
        note: Callable[[str], None],
    ) -> None:
        import requests

        self.locate, self.file, self.facts, self.what = locate, file, facts, what
        self.patience, self.seen, self.note = patience, seen, note
        self.session = requests.Session()
        self.request: requests.PreparedRequest | None = None
        self.ended = False
        self.trouble = ""
        self.size = file.seek(0, 2)
        self.remote = self._recorded()
        if self.remote is not None and 0 < self.size == self.remote.size:
            self.size = file.truncate(self.size - 1)  # asked for again: the answer says whether the rest is up to date
            file.seek(self.size)

    def run(self) -> None:
        """Transfer until the file is complete. Raises `Unreachable` after `patience.tries` in a row without a new byte."""
        idle = 0
        while not self._whole():
            before, pause = self.size, None
            if self.request is None:
                self.request = self.locate()
            try:
                pause = self._once()
            except _network_errors() as error:
                self.trouble = trouble(error)
            if self._whole():
                break
            idle = 0 if self.size > before else idle + 1
            if idle >= self.patience.tries:
                raise Unreachable(
                    f"{self.what}: the download is stuck: {self.trouble} ({idle} times in a row, at byte "
                    f"{self.size:,}{f' of {self.remote.size:,}' if self.remote and self.remote.size >= 0 else ''}).",
                    hint="The data so far is kept: run the same command again to resume.",
                )
            if idle == 1 or pause:
                self.note(f"{self.what}: {self.trouble}; retrying.")
            self._wait(self.patience.pause * 2 ** (idle - 1) if pause is None and idle else pause or 0.0)

    def _whole(self) -> bool:
        if self.remote is None:
            return False
        return self.ended if self.remote.size < 0 else self.size == self.remote.size

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + min(seconds, self.patience.longest)
        while (left := until - time.monotonic()) > 0:
            self._report()  # shows that this is alive
            time.sleep(min(left, 5.0))

    def _report(self) -> None:
        self.seen(self.size, self.remote.size if self.remote else -1)

    def _once(self) -> float | None:
        """Send one request and store the response. Return the seconds to wait before the next, if the server says so."""
        asked = self._asked()
        settings = self.session.merge_environment_settings(asked.url or "", {}, True, None, None)
        limits = (self.patience.connect, self.patience.silent)
        with self.session.send(asked, **settings, timeout=limits, allow_redirects=False) as answer:
            code = answer.status_code
            if code in AGAIN:
                self.trouble = "too many requests" if code == 429 else f"the server has an internal problem ({code})"
                return retry_after(answer.headers)
            if code in GONE:
                self.trouble, self.request = f"the address is no longer valid ({code})", None
                return None
            if code == 416:
                self._restart("the server has fewer bytes than were downloaded")
                return None
            if code not in (200, 206):
                raise Unreachable(f"{self.what}: the server answered with code {code}.", hint="Try again later.")
            if code == 206 and not self._continues(answer.headers):
                self._restart("the file on the server has changed")
                return None
            if code == 200:
                self._start(self._described(answer.headers))
            self._store(answer)
        return None

    def _asked(self) -> requests.PreparedRequest:
        """Return the request for the missing bytes."""
        if self.request is None:
            raise Unreachable(f"{self.what}: no address.")
        asked = self.request.copy()
        asked.headers["Accept-Encoding"] = "identity"  # bytes as stored: sizes and checksums refer to those
        if self.size and self.remote is not None:
            asked.headers["Range"] = f"bytes={self.size}-"
            asked.headers["If-Range"] = self.remote.validator
        return asked

    def _continues(self, headers: Mapping[str, str]) -> bool:
        """Return whether a partial response belongs to the same file and begins where the data so far ends."""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None or self.remote is None or int(match.group(1)) != self.size:
            return False
        same_size = match.group(2) == "*" or self.remote.size in (-1, int(match.group(2)))
        return same_size and headers.get("ETag", self.remote.etag) == self.remote.etag

    def _described(self, headers: Mapping[str, str]) -> RemoteFile:
        remote = describe(headers)
        if (
            remote.size < 0
            and not (remote.md5 or remote.crc32c)
            and "chunked" not in headers.get("Transfer-Encoding", "")
        ):
            raise BadDownload(
                f"{self.what}: the server states neither its length nor a checksum, so the download cannot be verified.",
                hint="A proxy may have removed them: try another network.",
            )
        return remote

    def _start(self, remote: RemoteFile) -> None:
        """Prepare for a complete response: discard the data so far and record the file's description."""
        self._empty()
        write_json(self.facts, asdict(remote))
        self.remote = remote

    def _restart(self, why: str) -> None:
        self.trouble = why
        self._empty()
        remove_files(self.facts)
        self.remote = None

    def _empty(self) -> None:
        self.file.truncate(0)
        self.size = self.file.seek(0)
        self.ended = False

    def _store(self, answer: requests.Response) -> None:
        """Write the response body; stop if it is longer than announced."""
        limit, before = self.remote.size if self.remote else -1, self.size
        self.trouble = "the connection was interrupted"
        while piece := _piece(answer):
            if 0 <= limit < self.size + len(piece):
                self._restart("the server sent more bytes than announced")
                return
            self.file.write(piece)
            self.size += len(piece)
            self._report()
        announced = answer.headers.get("Content-Length", "")
        self.ended = not announced.isdecimal() or self.size - before == int(announced)

    def _recorded(self) -> RemoteFile | None:
        """Return the description of the partial file; without one, or a way to match it, discard the partial file."""
        remote = None
        with suppress(OSError, ValueError, TypeError):  # no description, or an incomplete one: nothing to resume
            remote = RemoteFile(**read_json(self.facts))
        if remote is not None and self.size and not remote.validator:
            remote = None
        if remote is None:
            self._empty()
        return remote


def _piece(answer: requests.Response) -> bytes:
    """Read the next bytes from the connection, b'' at the end."""
    piece: bytes = answer.raw.read1(PIECE, decode_content=False)
    return piece


def _checked(file: BinaryIO, remote: RemoteFile | None, final: Path) -> FetchResult | None:
    """Verify the whole file, reading it once from the disk; return None if it is not the one announced."""
    if remote is None:
        return None
    from google_crc32c import Checksum

    os.fsync(file.fileno())
    file.seek(0)
    sha256, md5, crc32c, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), Checksum(), 0
    while piece := file.read(BLOCK):
        sha256.update(piece)
        if remote.md5:
            md5.update(piece)
        elif remote.crc32c:
            crc32c.update(piece)
        size += len(piece)
    by = {
        "md5": remote.md5,
        "crc32c": remote.crc32c,
        "size": str(remote.size) if remote.size >= 0 else "",
        "length": "-",
    }
    checked = next(name for name, announced in by.items() if announced)
    got = {"md5": md5.hexdigest(), "crc32c": crc32c.digest().hex(), "size": str(size), "length": "-"}
    if got[checked] != by[checked] or remote.size not in (-1, size):
        return None
    return FetchResult(final, size, sha256.hexdigest(), checked)


def _network_errors() -> tuple[type[Exception], ...]:
    import requests
    import urllib3

    return (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


def trouble(error: BaseException) -> str:
    """Describe a network error in words: never with its own text, which contains the address.

    >>> trouble(TimeoutError())
    'the server stopped responding'
    """
    import requests
    import urllib3

    kinds: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
        ((requests.exceptions.SSLError, urllib3.exceptions.SSLError), "the server's certificate is not accepted"),
        ((requests.exceptions.ProxyError, urllib3.exceptions.ProxyError), "the proxy cannot be reached"),
        ((requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError), "the server cannot be reached"),
        ((requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError), "the server stopped responding"),
        (
            (urllib3.exceptions.NameResolutionError, urllib3.exceptions.NewConnectionError),
            "no connection to the server",
        ),
    )
    inner = error.args[0] if error.args else None
    reasons = [error, inner, getattr(inner, "reason", None)]
    for kind, text in kinds:
        if any(isinstance(reason, kind) for reason in reasons):
            return text
    return "the connection was interrupted"


def as_words(error: HeadstartError) -> dict[str, str]:
    """Convert an error to text, to pass it between processes."""
    return {"failed": type(error).__name__, "message": error.message, "hint": error.hint}
