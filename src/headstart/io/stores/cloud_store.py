"""A bucket as a store, through obstore: S3 and compatible servers, Google Cloud Storage, Azure.

Credentials come from where each provider's own tools look: environment variables, a machine's role, `~/.aws/credentials`
(the profile in AWS_PROFILE; for single sign-on, `aws configure export-credentials --format env`). They stay in this
process and obstore: no message, log, file or repr contains them. AWS_ENDPOINT_URL names a server other than Amazon's; only
that one may be reached by plain http.
"""

from __future__ import annotations

import configparser
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from headstart.errors import MissingInStore, StoreError
from headstart.io.extras import require
from headstart.io.progress import log
from headstart.io.stores.retries import Pace
from headstart.io.stores.store_refusals import BucketRefusal
from headstart.io.stores.store_urls import VARIABLES, checked_url
from headstart.io.stores.stored_file import StoredFile

T = TypeVar("T")

MOST_REQUESTS = 64
"""Requests in flight at once, from one process."""
PAGE = 1000
_LIMITS = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "15m"}
"""A whole request may take long, since files may be large; but a connection silent for a minute is dead."""


class CloudStore:
    """The files of a bucket under a prefix."""

    def __init__(self, url: str) -> None:
        require(f"{url.partition(':')[0]}://", "obstore")
        self.url = checked_url(url)
        self._pace = Pace(MOST_REQUESTS)
        self._bucket = _opened(self.url)

    def __repr__(self) -> str:
        return f"<CloudStore: {self.url}>"

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """See `Store.list`: one request per 1,000 files, made when they are needed.

        The objects that web consoles create to show a folder (no bytes, no extension) are left out. S3's directory
        buckets, and a few small servers, list in an order of their own.
        """
        pages = _Pages(self._bucket, after)
        while page := self._asked("", pages.next):
            for found in page:
                if found["size"] or "." in found["path"].rpartition("/")[2]:
                    yield StoredFile(found["path"], found["size"], found["e_tag"] or "")

    def read(self, key: str, *, etag: str = "", start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`: one request."""
        if length == 0:
            return b""
        options: dict[str, Any] = {"if_match": etag} if etag else {}
        if length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        return self._asked(key, lambda: self._got(key, options))

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`: one conditional request."""
        return self._asked(key, lambda: self._created(key, data))

    def write(self, key: str, data: bytes | Path) -> None:
        """See `Store.write`: more than 5 MB is sent as a multipart upload, several parts at a time."""
        import obstore

        self._asked(key, lambda: obstore.put(self._bucket, key, data))

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        import obstore

        with suppress(MissingInStore):
            self._asked(key, lambda: obstore.delete(self._bucket, key))

    def keeps_conditions(self) -> bool:
        """See `Store.keeps_conditions`: an empty file is created twice, then deleted."""
        key = f".headstart-probe-{uuid.uuid4().hex}"
        try:
            kept = self.create(key, b"") and not self.create(key, b"")
        finally:
            with suppress(StoreError):  # credentials that may write need not be allowed to delete
                self.delete(key)
        if not kept:
            log.warning(
                "%s: this server ignores the condition `If-None-Match`, so two processes may write the same file; "
                "equal work gives equal bytes, so nothing is lost.",
                self.url,
            )
        return kept

    def _asked(self, key: str, request: Callable[[], T]) -> T:
        from obstore.exceptions import BaseError, InvalidPathError

        def failure(error: Exception) -> BucketRefusal:
            if isinstance(error, InvalidPathError):
                raise StoreError(
                    f"{self.url}{key}: has a key with an empty name, `.` or `..` in its path.",
                    hint="Such keys are not valid file paths: give a prefix without them, or rename them.",
                ) from None
            return BucketRefusal(self.url, key, str(error))

        return self._pace.asked(request, failure, (BaseError, OSError))

    def _got(self, key: str, options: dict[str, Any]) -> bytes:
        import obstore

        try:
            answer = obstore.get(self._bucket, key, options=options)
            data = bytes(answer.bytes())
        except obstore.exceptions.GenericError as error:
            if "range" in options and BucketRefusal(self.url, key, str(error)).status == 416:
                return b""  # the range begins at or beyond the end of the file
            if "range" in options and "source: NotPartial" in str(error):
                return self._part(key, options)
            raise
        if len(data) != answer.range[1] - answer.range[0]:
            raise obstore.exceptions.GenericError("a body whose length differs from the one announced")
        return data

    def _part(self, key: str, options: dict[str, Any]) -> bytes:
        """Return a range from a server that only sends whole files."""
        whole = self._got(key, {name: value for name, value in options.items() if name != "range"})
        if isinstance(options["range"], dict):
            return whole[options["range"]["offset"] :]
        return whole[slice(*options["range"])]

    def _created(self, key: str, data: bytes) -> bool:
        import obstore

        try:
            obstore.put(self._bucket, key, data, mode="create")
        except obstore.exceptions.AlreadyExistsError as error:
            if BucketRefusal(self.url, key, str(error)).is_conflict:
                raise
            return False
        return True


class _Pages:
    """A listing that, after a failed request, continues after the last key it returned."""

    def __init__(self, bucket: Any, after: str) -> None:
        self._bucket = bucket
        self._after = after
        self._stream: Any = None

    def next(self) -> Any:
        """Return the next page, None at the end."""
        import obstore

        stream, self._stream = self._stream, None  # after a failure, this stays None
        if stream is None:
            stream = obstore.list(self._bucket, offset=self._after or None, chunk_size=PAGE)
        page = next(stream, None)
        if page:
            self._after, self._stream = page[-1]["path"], stream
        return page


def _opened(url: str) -> Any:
    """Return obstore's store for a URL. Sends no request yet."""
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    place = {"prefix": prefix.rstrip("/") or None, "client_options": _LIMITS, "retry_config": {"max_retries": 0}}
    try:
        if scheme == "s3":
            return S3Store(bucket, **{**place, **_amazon()})
        return (GCSStore if scheme == "gs" else AzureStore)(bucket, **place)
    except (BaseError, ValueError, OSError):
        raise StoreError(
            f"{scheme}://{bucket}: cannot be opened with the settings in the environment.",
            hint=f"Check {VARIABLES[scheme]}.",
        ) from None


def _amazon() -> dict[str, Any]:
    """Return settings that obstore does not read by itself: permission for plain http, and those in Amazon's files."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    found: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    if endpoint.startswith("http://"):
        found["client_options"] = {**_LIMITS, "allow_http": True}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {**found, **_from_files(), **({"region": region} if region else {})}


def _from_files() -> dict[str, str]:
    """Return keys and region of a profile in `~/.aws`, unless the environment has keys."""
    profile = os.environ.get("AWS_PROFILE", "default")
    settings = configparser.RawConfigParser()
    home = Path.home() / ".aws"
    names = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"),
        os.environ.get("AWS_CONFIG_FILE", home / "config"),
    )
    with suppress(configparser.Error, UnicodeDecodeError):  # not ours to judge; then no credentials are found
        settings.read(names, encoding="utf-8")
    values: dict[str, str] = {}
    for section in (f"profile {profile}", profile):
        values |= dict(settings[section]) if settings.has_section(section) else {}
    wanted = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "region": "region",
    }
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        wanted = {"region": "region"}
    return {name: values[key] for key, name in wanted.items() if values.get(key)}
