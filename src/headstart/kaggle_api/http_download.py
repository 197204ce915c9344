"""One file over HTTP: resumed where it was cut, checked as a whole, and only then given its name.

What has come so far lies beside the final name as ``NAME.partial``, with ``NAME.partial.json``: which file it is part of
(size, ETag, checksum). It is added to only while the server says that this is still the same file; else it is begun anew. At
the end the size is compared, and the MD5 or CRC-32C where the server gives one (``x-goog-hash``, ``Content-MD5``; an ETag is
no checksum). Memory stays flat; checking reads the file once (SHA-256 and MD5 500 MB/s).

Redirects are not followed and nothing is logged in here: `locate` gives the whole request, so that what it carries goes to
the host that it was made for and to no other. An address is never shown, since a signed one is a key. Not for many small
files.
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
"""Codes after which the same address may be asked again."""
GONE = frozenset({301, 302, 303, 307, 308, 400, 401, 403, 404, 410})
"""Codes of an address that no longer leads to the file: a new one is asked for."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, in seconds, and how often to try."""

    connect: float = 15.0
    silent: float = 30.0
    """Between two pieces of an answer."""
    pause: float = 0.5
    """Before the second try without gain; doubled before each further one."""
    longest: float = 60.0
    """One pause, whatever Retry-After says."""
    tries: int = 7
    """In a row without a single new byte."""


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file: `size` in bytes (-1 unknown), what names this version of it, checksums ('' unknown)."""

    size: int
    etag: str
    modified: str
    md5: str
    crc32c: str

    @property
    def validator(self) -> str:
        """For If-Range: the strong ETag, else the date; '' where a part cannot be proven to belong to the whole."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass(frozen=True)
class FetchResult:
    """A whole file. `checked`: by 'md5', 'crc32c', 'size', or 'length' where only the transfer itself had an end."""

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
    """Bring a file to `final`; what an earlier call left there or beside it is gone on with.

    `locate` gives the request for it, and is called again when an address is no longer good. `seen(bytes so far, total or
    -1)` is called after each piece and each pause. `what` names the file in errors. Raises `Unreachable`, `BadDownload`
    (twice another checksum or size than announced), `WriteError`, and what `locate` raises; then `final` is not there.
    """
    partial, facts = final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.partial.json")
    if final.exists() and not partial.exists():
        take_name(final, partial)  # whole, if the server agrees that it is still this one
    for last in (False, True):
        with partial_file(partial) as file:
            transfer = _Transfer(locate, file, facts, what, patience, seen, note)
            transfer.run()
            got = _checked(file, transfer.remote, final)
        if got is not None:
            take_name(partial, final)
            return got
        remove_files(partial, facts)
        if not last:
            note(f"{what}: its checksum is not the one that was announced; once more from the start.")
    raise BadDownload(
        f"{what}: twice its bytes were not those that the server announced (the checksum differs); nothing was kept.",
        hint="Something on the way changes it: a proxy, perhaps. Try again later, or over another network.",
    )


def forget(final: Path) -> None:
    """Remove a fetched file and what is known of it."""
    remove_files(final, final.with_name(f"{final.name}.partial.json"))


def describe(headers: Mapping[str, str]) -> RemoteFile:
    """What the headers of an answer with the whole file (200) say of it."""
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and "chunked" not in headers.get("Transfer-Encoding", "") else -1
    hashes = dict(re.findall(r"(md5|crc32c)=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", "")))
    md5, crc32c = _digest(hashes.get("md5", headers.get("Content-MD5", "")), 16), _digest(hashes.get("crc32c", ""), 4)
    return RemoteFile(size, headers.get("ETag", ""), headers.get("Last-Modified", ""), md5, crc32c)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by Retry-After, a number or a date; None without it, or if it is neither.

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
    """A checksum in base64 as hexadecimal, '' if it is not one of `size` bytes."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == size else ""


class _Transfer:
    """One go at one file: asks, goes on after cuts, begins anew if the file is another one. Ends with all of it there."""

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
        self.remote = self._known()

    def run(self) -> None:
        """Until all is there. Raises `Unreachable` after `patience.tries` in a row without a new byte."""
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
                    f"{self.what}: the download does not go on: {self.trouble} ({idle} times in a row, at byte "
                    f"{self.size:,}{f' of {self.remote.size:,}' if self.remote and self.remote.size >= 0 else ''}).",
                    hint="What has come is kept: the same command goes on from there.",
                )
            if idle == 1 or pause:
                self.note(f"{self.what}: {self.trouble}; trying again.")
            self._wait(self.patience.pause * 2 ** (idle - 1) if pause is None and idle else pause or 0.0)

    def _whole(self) -> bool:
        if self.remote is None:
            return False
        return self.ended if self.remote.size < 0 else self.size == self.remote.size

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + min(seconds, self.patience.longest)
        while (left := until - time.monotonic()) > 0:
            self._tell()  # that this is alive
            time.sleep(min(left, 5.0))

    def _tell(self) -> None:
        self.seen(self.size, self.remote.size if self.remote else -1)

    def _once(self) -> float | None:
        """Ask once and take what comes. Seconds to wait before the next time, if the server says so."""
        asked = self._asked()
        settings = self.session.merge_environment_settings(asked.url or "", {}, True, None, None)
        limits = (self.patience.connect, self.patience.silent)
        with self.session.send(asked, **settings, timeout=limits, allow_redirects=False) as answer:
            code = answer.status_code
            if code in AGAIN:
                self.trouble = "too many requests" if code == 429 else f"the server has a problem of its own ({code})"
                return retry_after(answer.headers)
            if code in GONE:
                self.trouble, self.request = f"the address is no longer good ({code})", None
                return None
            if code == 416:
                self._begin_anew("the server has fewer bytes than are here")
                return None
            if code not in (200, 206):
                raise Unreachable(f"{self.what}: the server answers with code {code}.", hint="Try again later.")
            if code == 206 and not self._continues(answer.headers):
                self._begin_anew("the file on the server is another one by now")
                return None
            if code == 200:
                self._first(self._described(answer.headers))
            self._take(answer)
        return None

    def _asked(self) -> requests.PreparedRequest:
        """The request, for what is missing."""
        if self.request is None:
            raise Unreachable(f"{self.what}: there is no address for it.")
        asked = self.request.copy()
        asked.headers["Accept-Encoding"] = "identity"  # bytes as they are stored: sizes and checksums are of those
        if self.size and self.remote is not None:
            asked.headers["Range"] = f"bytes={self.size}-"
            asked.headers["If-Range"] = self.remote.validator
        return asked

    def _continues(self, headers: Mapping[str, str]) -> bool:
        """Whether a partial answer is of the file that we have the beginning of, and begins where that ends."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if found is None or self.remote is None or int(found.group(1)) != self.size:
            return False
        same_size = found.group(2) == "*" or self.remote.size in (-1, int(found.group(2)))
        return same_size and headers.get("ETag", self.remote.etag) == self.remote.etag

    def _described(self, headers: Mapping[str, str]) -> RemoteFile:
        remote = describe(headers)
        if (
            remote.size < 0
            and not (remote.md5 or remote.crc32c)
            and "chunked" not in headers.get("Transfer-Encoding", "")
        ):
            raise BadDownload(
                f"{self.what}: the server says neither how long it is nor what its checksum is, so that nothing could show "
                "whether all of it has come.",
                hint="A proxy may have taken that away: try another network.",
            )
        return remote

    def _first(self, remote: RemoteFile) -> None:
        """All of the file comes from its first byte: nothing that is there is part of it."""
        self._empty()
        write_json(self.facts, asdict(remote))
        self.remote = remote

    def _begin_anew(self, why: str) -> None:
        self.trouble = why
        self._empty()
        remove_files(self.facts)
        self.remote = None

    def _empty(self) -> None:
        self.file.truncate(0)
        self.size = self.file.seek(0)
        self.ended = False

    def _take(self, answer: requests.Response) -> None:
        """Write what comes; a body longer than announced is not read on."""
        limit, before = self.remote.size if self.remote else -1, self.size
        self.trouble = "the connection was cut"
        while piece := _piece(answer):
            if 0 <= limit < self.size + len(piece):
                self._begin_anew("more bytes came than were announced")
                return
            self.file.write(piece)
            self.size += len(piece)
            self._tell()
        announced = answer.headers.get("Content-Length", "")
        self.ended = not announced.isdecimal() or self.size - before == int(announced)

    def _known(self) -> RemoteFile | None:
        """What is written of the part that lies here; without that, or a way to prove it, the part is nothing."""
        remote = None
        with suppress(
            OSError, ValueError, TypeError
        ):  # there is none, or half of one: then there is nothing to go on with
            remote = RemoteFile(**read_json(self.facts))
        if remote is not None and self.size and not remote.validator:
            remote = None
        if remote is None:
            self._empty()
        return remote


def _piece(answer: requests.Response) -> bytes:
    """The next bytes as they come over the line, b'' at the end."""
    piece: bytes = answer.raw.read1(PIECE, decode_content=False)
    return piece


def _checked(file: BinaryIO, remote: RemoteFile | None, final: Path) -> FetchResult | None:
    """The whole file, read once from the disk; None if it is not the one that was announced."""
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
    """What went wrong on the way, in words: never the text of the error, which has the address in it.

    >>> trouble(TimeoutError())
    'the server went silent'
    """
    import requests
    import urllib3

    kinds: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
        ((requests.exceptions.SSLError, urllib3.exceptions.SSLError), "the server's certificate is not accepted"),
        ((requests.exceptions.ProxyError, urllib3.exceptions.ProxyError), "the proxy cannot be reached"),
        ((requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError), "the server cannot be reached"),
        ((requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError), "the server went silent"),
        (
            (urllib3.exceptions.NameResolutionError, urllib3.exceptions.NewConnectionError),
            "there is no way to the server",
        ),
    )
    inner = error.args[0] if error.args else None
    reasons = [error, inner, getattr(inner, "reason", None)]
    for kind, text in kinds:
        if any(isinstance(reason, kind) for reason in reasons):
            return text
    return "the connection was cut"


def as_words(error: HeadstartError) -> dict[str, str]:
    """An error as text, to cross from one process to another."""
    return {"failed": type(error).__name__, "message": error.message, "hint": error.hint}
