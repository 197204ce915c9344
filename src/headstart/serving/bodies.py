"""Reading the body of a request without trusting it: counted as it arrives, within a fixed time, and never stored on disk.

    body = await read_body(request, place, most=20_000_000, until=time.monotonic() + 10)
    upload = read_upload(body, request.headers)          one image: raw bytes, a file in a form, or base64 in JSON

`Content-Length` is used only to refuse at once what would be too big; what is left of a refused body is discarded by
`leftovers`. Python's own parser of forms, and Starlette's, write large files to disk, so this module has a small one for bytes
that are already in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from starlette.requests import ClientDisconnect, Request

from headstart.serving.admission import Place
from headstart.serving.open_inference import json_values
from headstart.serving.refusals import CLOSE, RequestRefused, caller_left

RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream")
"""Content types of bare bytes, besides image/...: the third is what `curl --data-binary` says unless told otherwise."""
ACCEPTED = "Send the bytes of an image (image/jpeg ...), a form with one file (multipart/form-data), or JSON."
MOST_VALUES = 10_000
"""Values in a JSON body. Millions of small ones would take 25 times its size in memory, and hold up everyone else."""
MOST_PARTS = 16
MOST_PART_HEADERS = 8_192

Body = bytes | bytearray | memoryview


@dataclass(frozen=True, eq=False)
class Upload:
    """One image of a request, and how many classes it asks for (None: the default)."""

    image: Body
    top_k: int | None = None


async def read_body(request: Request, place: Place, *, most: int, until: float) -> bytearray:
    """Return the body of at most `most` bytes that has arrived by `until`, a time of `time.monotonic`.

    Raises `RequestRefused`: 400 if it is empty, 408 if it is late, 413 if it is too big, 415 if it is compressed, 499 if the
    caller has disconnected; and `Overloaded` if the memory for requests is full.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most:
        raise _too_big(most)
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise RequestRefused(415, "content_encoding", "Compressed requests are not supported.", headers=CLOSE)
    try:
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            body = await _received(request, place, most)
    except TimeoutError:
        raise RequestRefused(408, "too_slow_to_arrive", "The request took too long to arrive.", headers=CLOSE) from None
    except ClientDisconnect:
        raise caller_left() from None
    if not body:
        raise RequestRefused(400, "empty", f"The request has no body. {ACCEPTED}")
    return body


async def _received(request: Request, place: Place, most: int) -> bytearray:
    """Return the body. Raises `RequestRefused` as soon as it is larger than `most`."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > most:
            raise _too_big(most)
        place.hold(size=len(body) + len(chunk))
        body += chunk
    return body


def read_upload(body: Body, headers: Mapping[str, str]) -> Upload:
    """Return the image in a body. Raises `RequestRefused`: 400 for what cannot be parsed, 415 for another content type."""
    stated = Message()
    stated["content-type"] = headers.get("content-type", "").strip() or "application/octet-stream"
    kind = stated.get_content_type()
    if kind == "multipart/form-data":
        return _from_form(body, str(stated.get_param("boundary") or ""))
    if kind == "application/json":
        return _from_json(body)
    if kind in RAW or kind.startswith("image/"):
        return Upload(body)
    raise RequestRefused(415, "content_type", f"The content type {kind[:80]!r} is not supported. {ACCEPTED}")


# JSON


def parse_json(body: Body) -> Any:
    """Return the value of a JSON body. Raises `RequestRefused`."""
    text = bytes(body)
    if json_values(text) > MOST_VALUES:
        raise RequestRefused(
            400, "json", f"The body has more than {MOST_VALUES:,} JSON values, too many for a request."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        raise RequestRefused(400, "json", f"The body is not valid JSON: {why[:200]}.") from None


def decode_base64(text: Any, where: str) -> bytes:
    """Decode base64 text, with or without ``data:...;base64,`` before it. Raises `RequestRefused`."""
    if not isinstance(text, str) or not text:
        raise RequestRefused(400, "base64", f"{where}: expected the bytes of an image in base64.")
    if text[:8].lower().startswith(("http://", "https:/")):
        raise RequestRefused(
            400, "address", f"{where} is a URL, which the server does not fetch. Send the image itself."
        )
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestRefused(400, "base64", f"{where} is not valid base64: {error}.") from None


def as_top_k(value: Any) -> int:
    """Return how many classes are asked for. Raises `RequestRefused`."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestRefused(400, "top_k", "top_k: expected a whole number, 1 or more.")
    return value


def _from_json(body: Body) -> Upload:
    """Read what clients of Hugging Face's interface send: ``{"inputs": base64, "parameters": {"top_k": 3}}``."""
    document = parse_json(body)
    if not isinstance(document, dict) or "inputs" not in document:
        raise RequestRefused(400, "json", 'Expected {"inputs": "the image in base64"}.')
    parameters = {} if document.get("parameters") is None else document["parameters"]
    if not isinstance(parameters, dict):
        raise RequestRefused(400, "json", "parameters: expected an object.")
    if parameters.get("function_to_apply") not in (None, "softmax"):
        raise RequestRefused(400, "function_to_apply", "function_to_apply: only softmax is supported.")
    top_k = parameters.get("top_k")
    image = decode_base64(document["inputs"], "inputs")
    if not image:
        raise RequestRefused(400, "empty", "inputs is empty.")
    return Upload(image, None if top_k is None else as_top_k(top_k))


# Forms


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a form: a file if it has a file name, else a field."""

    name: str
    file_name: str | None
    content: memoryview


def _from_form(body: Body, boundary: str) -> Upload:
    """Read the one file of a form, and its field `top_k`. Raises `RequestRefused` if there is no file or more than one, or
    the form is damaged."""
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise _bad_form("it names no boundary")
    parts = _parts(body, boundary.encode("ascii"))
    files = [part.content for part in parts if part.file_name is not None]
    if len(files) != 1:
        raise RequestRefused(400, "form", f"Expected a form with one file; this one has {len(files)}.")
    if not len(files[0]):
        raise RequestRefused(400, "empty", "The file in the form has no bytes.")
    asked = [part.content for part in parts if part.file_name is None and part.name == "top_k"]
    return Upload(files[0], as_top_k(bytes(asked[0]).decode("latin-1")) if asked else None)


def _parts(body: Body, boundary: bytes) -> list[_Part]:
    data, view = bytes(body) if isinstance(body, memoryview) else body, memoryview(body)
    mark = b"--" + boundary
    if not data.startswith(mark):
        raise _bad_form("it does not begin with its boundary")
    at = len(mark)
    parts: list[_Part] = []
    while not data.startswith(b"--", at):
        if not data.startswith(b"\r\n", at) or len(parts) == MOST_PARTS:
            raise _bad_form(f"more than {MOST_PARTS} parts" if len(parts) == MOST_PARTS else "a boundary is damaged")
        head = data.find(b"\r\n\r\n", at, at + MOST_PART_HEADERS)
        end = data.find(b"\r\n" + mark, head + 2)
        if head < 0 or end < 0:
            raise _bad_form("a part does not end")
        parts.append(_Part(*_names(data[at + 2 : head]), view[head + 4 : max(end, head + 4)]))
        at = end + 2 + len(mark)
    return parts


def _names(head: bytes | bytearray) -> tuple[str, str | None]:
    """Return the name of the field in a part's headers, and that of the file, None if there is none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            message = Message()
            message["content-disposition"] = value.decode("latin-1").strip()
            return str(message.get_param("name", "", header="content-disposition")), message.get_filename()
        if name.strip().lower() == b"content-transfer-encoding" and value.strip().lower() not in (
            b"binary",
            b"8bit",
            b"7bit",
        ):
            raise _bad_form("a part is encoded")
    raise _bad_form("a part has no name")


def _bad_form(why: str) -> RequestRefused:
    return RequestRefused(400, "form", f"The form cannot be read: {why}.")


def _too_big(most: int) -> RequestRefused:
    return RequestRefused(
        413, "too_big", f"The request is larger than {most / 1e6:g} MB (the server's --max-body).", headers=CLOSE
    )
