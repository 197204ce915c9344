"""A small Kaggle on this machine: the endpoints that the real client calls, a storage host, and faults on demand.

    with kaggle_server(drawn_competition()) as server:
        subprocess.run(["headstart", "kaggle", REDUX, "--offline"], env={**os.environ, **server.environment})

The client is the installed one, unchanged. `KAGGLE_API_ENVIRONMENT=LOCALHOST`, its own switch, sends it to http://localhost,
and `HTTP_PROXY` sends that, and every other http address, to the port here: so the storage that downloads are redirected to
is a host of another name, and what is sent to which host can be looked at afterwards (`server.seen`).

Competitions have the layout of dogs-vs-cats-redux: one zip with train.zip (train/cat.0.jpg), test.zip (test/1.jpg) and
sample_submission.csv; the answers stay here, and submissions are scored by log-loss.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import os
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from conftest import draw

REDUX = "dogs-vs-cats-redux-kernels-edition"
DATASET = "ada/cat-and-dog"
USER = "ada"
KEY = "0canary0key0f00dfeedbeefcafe0123"
TOKEN = "KGAT_canarytoken4567890abcdef"
STORAGE = "storage.googleapis.test"
UPLOADS = "uploads.googleapis.test"


@dataclass(frozen=True)
class Competition:
    """What Kaggle has of a competition: the archive that it hands out, and the answers {id: 0 or 1} that it keeps."""

    slug: str
    archive: bytes
    answers: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Faults:
    """What is to go wrong; each number counts down as it happens. Storage unless said otherwise.

    The client opens an address that it is redirected to and closes it again, before the file is fetched: that counts too.
    """

    cuts: list[int] = field(default_factory=list)
    """After how many bytes to cut the connection, one for each answer until they are used up."""
    stalls: int = 0
    """Answers that stop half-way and stay silent."""
    short: int = 0
    """Answers that announce and send half of the bytes, as a proxy does that was cut off itself."""
    corrupt: int = 0
    """Answers with one bit turned."""
    wrong_checksum: int = 0
    """Answers whose x-goog-hash is that of something else."""
    too_many: int = 0
    """429 answers, with Retry-After."""
    api_too_many: int = 0
    """429 answers of the API."""
    retry_after: str = "0"
    expired: int = 0
    """403 answers for a signed address, as after its time is up."""
    broken: int = 0
    """503 answers."""
    no_ranges: bool = False
    """Ranges are ignored: always all of it."""
    no_checksum: bool = False
    only_crc32c: bool = False
    """As of files that were put together from parts: no MD5."""
    no_size: bool = False
    """Bodies in chunks, without Content-Length."""
    changes: int = 0
    """Answers after which the file is another one."""
    direct: bool = False
    """The API sends the file itself instead of an address."""
    api_stall: str = ""
    """The API call that is never answered, such as DownloadDataFiles."""
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    """{API call: (code, message)}."""
    moved: dict[str, tuple[int, str]] = field(default_factory=dict)
    """{API call: (code, address)} of redirects."""
    redirect: str = ""
    """Where the API sends downloads instead of to the storage."""
    pending: int = 0
    """How often a submission is still being scored when asked after."""
    upload_refused: bool = False


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def call(self) -> str:
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    def says(self, secret: str) -> bool:
        """Whether the request carries a secret, plainly or as HTTP basic authentication has it."""
        basic = base64.b64encode(f"{USER}:{secret}".encode()).decode()
        text = "\n".join([self.url, *self.headers.values(), self.body.decode("latin-1")])
        return secret in text or basic in text


class KaggleServer:
    """The running server: `environment` for a client's process, `seen` requests, `faults`, `submissions` received."""

    def __init__(self, *competitions: Competition, config: Path | None = None) -> None:
        self.competitions = {c.slug: c for c in competitions}
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.submissions: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.rules_accepted = True
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.http = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"kaggle": self}))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send the real client here, logged in by name and key."""
        return {
            **dict.fromkeys(("HTTP_PROXY", "http_proxy"), self.address),
            **dict.fromkeys(("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"), ""),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "KAGGLE_API_TOKEN": os.devnull,  # no token, not even one from this user's home
        }

    @property
    def token_environment(self) -> dict[str, str]:
        """The same, logged in by the newer token."""
        given = {k: v for k, v in self.environment.items() if k not in ("KAGGLE_USERNAME", "KAGGLE_KEY")}
        return {**given, "KAGGLE_API_TOKEN": TOKEN}

    @property
    def calls(self) -> list[str]:
        """The API calls so far, in order."""
        return [s.call for s in self.seen if s.host == "localhost"]

    @property
    def downloads(self) -> list[Seen]:
        """Requests to the storage."""
        return [s for s in self.seen if s.host == STORAGE]

    def takes(self, name: str) -> bool:
        """Whether a fault is to happen now; counts it down."""
        with self.lock:
            left = getattr(self.faults, name)
            setattr(self.faults, name, max(left - 1, 0))
            return left > 0


@contextmanager
def kaggle_server(*competitions: Competition) -> Iterator[KaggleServer]:
    """Run a server for the time of the block; without competitions it has the small drawn one. Skips without the client."""
    if find_spec("kaggle") is None:  # not imported: that logs in
        pytest.skip("needs the package kaggle, which is not installed")
    server = KaggleServer(*(competitions or (drawn_competition(),)))
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.http.shutdown()
        server.http.server_close()


# Competitions


def zipped(contents: Mapping[str, bytes]) -> bytes:
    """A zip, the same bytes for the same contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, (2016, 9, 2, 0, 0, 0)), data)
    return file.getvalue()


def redux(train: Mapping[str, bytes], test: Mapping[str, bytes], sample: str) -> bytes:
    """The archive as Kaggle packs it: zips in a zip."""
    return zipped(
        {
            "sample_submission.csv": sample.encode(),
            "test.zip": zipped({f"test/{name}": data for name, data in test.items()}),
            "train.zip": zipped({f"train/{name}": data for name, data in train.items()}),
        }
    )


def drawn_competition(each: int = 20, test: int = 12, slug: str = REDUX) -> Competition:
    """Small images of two kinds in the redux layout; both kinds alternate in the test set without pattern."""
    kinds = np.random.default_rng(5).permutation(np.arange(test) % 2)
    train = {f"{name}.{n}.jpg": _jpeg(k, n) for k, name in enumerate(("cat", "dog")) for n in range(each)}
    held = {f"{i}.jpg": _jpeg(int(k), 1000 + i) for i, k in enumerate(kinds, 1)}
    answers = {str(i): int(k) for i, k in enumerate(kinds, 1)}
    return Competition(slug, redux(train, held, _sample(answers)), answers)


def cats_dogs_competition(archive: Path, slug: str = REDUX) -> Competition:
    """The real images of `shared/data/cats-dogs.zip` in the redux layout, the test set without its labels."""
    train: dict[str, bytes] = {}
    held: list[tuple[int, bytes]] = []
    with zipfile.ZipFile(archive) as source:
        for name in sorted(n for n in source.namelist() if n.lower().endswith(".jpg")):
            _, side, kind, _ = name.split("/")
            if side == "train":
                train[f"{kind.rstrip('s')}.{len(train)}.jpg"] = source.read(name)
            else:
                held.append((int(kind == "dogs"), source.read(name)))
    order = np.random.default_rng(5).permutation(len(held))
    test = {f"{i}.jpg": held[k][1] for i, k in enumerate(order, 1)}
    answers = {str(i): held[k][0] for i, k in enumerate(order, 1)}
    return Competition(slug, redux(train, test, _sample(answers)), answers)


def drawn_dataset(each: int = 8, slug: str = DATASET) -> Competition:
    """A dataset of class folders, zipped as Kaggle does."""
    files = {f"{name}s/{n}.jpg": _jpeg(k, n) for k, name in enumerate(("cat", "dog")) for n in range(each)}
    return Competition(slug, zipped(files))


def log_loss(answers: Mapping[str, int], submitted: Mapping[str, float], floor: float = 1e-15) -> float:
    """Binary log-loss in nats over the answers, as Kaggle scores it."""
    chances = [min(max(submitted[i], floor), 1 - floor) for i in answers]
    return -sum(math.log(p if y else 1 - p) for p, y in zip(chances, answers.values(), strict=True)) / len(answers)


def _sample(answers: Mapping[str, int]) -> str:
    return "id,label\n" + "".join(f"{i},0.5\n" for i in answers)


def _jpeg(kind: int, seed: int) -> bytes:
    file = io.BytesIO()
    draw(kind, seed).save(file, "JPEG", quality=90)
    return file.getvalue()


# HTTP


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients of these tests hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kaggle: KaggleServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `seen`."""

    def do_POST(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = self.path if "://" in self.path else f"http://{self.headers['Host']}{self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(self.command, url, dict(self.headers.items()), body)
        with self.kaggle.lock:
            self.kaggle.seen.append(seen)
        parts = urlsplit(url)
        if parts.netloc == STORAGE and self.command == "GET":
            self.storage(parts.path)
        elif parts.netloc == UPLOADS and self.command == "PUT":
            self.upload(parts.path, body)
        elif parts.path.startswith("/api/v1/"):
            self.api(seen)
        else:
            self.say(404, {"code": 404, "message": "no such host or page here"})

    # The API

    def api(self, seen: Seen) -> None:
        faults, asked = self.kaggle.faults, json.loads(seen.body or b"{}")
        if faults.api_stall == seen.call:
            self.kaggle.closing.wait(60)
            self.close_connection = True
            return
        if self.kaggle.takes("api_too_many"):
            self.say(429, {"code": 429, "message": "Too many requests"}, {"Retry-After": faults.retry_after})
            return
        if seen.call in faults.moved:
            code, place = faults.moved[seen.call]
            self.say(code, None, {"Location": place})
            return
        if seen.call in faults.status:
            code, message = faults.status[seen.call]
            self.say(code, {"code": code, "message": message})
            return
        if seen.call == "IntrospectToken":
            self.say(200, {"active": asked["token"] == TOKEN, "username": USER if asked["token"] == TOKEN else ""})
            return
        if not self.logged_in() and not (seen.call == "DownloadDataset" and "Authorization" not in seen.headers):
            self.say(401, {"code": 401, "message": "Unauthenticated"})
            return
        action = getattr(self, f"api_{seen.call}", None)
        if action is None:
            self.say(404, {"code": 404, "message": f"{seen.call} is not spoken here"})
        else:
            action(asked)

    def logged_in(self) -> bool:
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Basic {basic}", f"Bearer {TOKEN}")

    def api_DownloadDataFiles(self, asked: dict[str, Any]) -> None:
        slug = asked["competitionName"]
        if slug not in self.kaggle.competitions:
            self.say(404, {"code": 404, "message": "Not found"})
        elif not self.kaggle.rules_accepted:
            self.say(403, {"code": 403, "message": "You must accept this competition's rules before you can continue"})
        else:
            self.hand_out(slug)

    def api_DownloadDataset(self, asked: dict[str, Any]) -> None:
        slug = f"{asked['ownerSlug']}/{asked['datasetSlug']}"
        if slug in self.kaggle.competitions:
            self.hand_out(slug)
        else:
            self.say(403, {"code": 403, "message": "Permission 'datasets.get' was denied"})

    def hand_out(self, slug: str) -> None:
        if self.kaggle.faults.direct:
            self.storage(f"/{slug}.zip")
            return
        place = self.kaggle.faults.redirect or f"http://{STORAGE}/{slug}.zip"
        signature = hashlib.sha256(f"{slug}{time.time()}".encode()).hexdigest()
        self.say(302, None, {"Location": f"{place}?X-Goog-Signature={signature}"})

    def api_StartSubmissionUpload(self, asked: dict[str, Any]) -> None:
        if asked["competitionName"] not in self.kaggle.competitions:
            self.say(404, {"code": 404, "message": "Not found"})
            return
        token = f"blob{len(self.kaggle.uploads) + len(self.kaggle.submissions)}"
        self.say(200, {"token": token, "createUrl": f"http://{UPLOADS}/{token}"})

    def upload(self, path: str, body: bytes) -> None:
        if self.kaggle.faults.upload_refused:
            self.say(410, {"code": 410, "message": "Gone"})
            return
        self.kaggle.uploads[path.strip("/")] = body
        self.say(200, {})

    def api_CreateSubmission(self, asked: dict[str, Any]) -> None:
        competition = self.kaggle.competitions[asked["competitionName"]]
        data = self.kaggle.uploads.pop(asked["blobFileTokens"])
        made = {"ref": 1000 + len(self.kaggle.submissions), "date": "2026-01-02T03:04:05.000Z", "data": data}
        made["description"] = asked.get("submissionDescription") or ""
        made |= _scored(competition, data)
        self.kaggle.submissions.append(made)
        self.say(200, {"message": f"Successfully submitted to {competition.slug}", "ref": made["ref"]})

    def api_ListSubmissions(self, asked: dict[str, Any]) -> None:
        pending = self.kaggle.takes("pending")
        listed = []
        for made in reversed(self.kaggle.submissions):
            shown = {name: value for name, value in made.items() if name != "data"}
            listed.append({**shown, "status": "PENDING", "publicScore": ""} if pending else shown)
        self.say(200, {"submissions": listed, "nextPageToken": ""})

    def api_GetSubmission(self, asked: dict[str, Any]) -> None:
        made = next(s for s in self.kaggle.submissions if s["ref"] == asked["ref"])
        shown = {name: value for name, value in made.items() if name != "data"}
        self.say(200, {**shown, "status": "PENDING", "publicScore": ""} if self.kaggle.takes("pending") else shown)

    # The storage

    def storage(self, path: str) -> None:
        slug = path.strip("/").removesuffix(".zip")
        if slug not in self.kaggle.competitions:
            self.say(404, None)
            return
        faults, data = self.kaggle.faults, self.kaggle.competitions[slug].archive
        for name, code in (("too_many", 429), ("expired", 403), ("broken", 503)):
            if self.kaggle.takes(name):
                self.say(code, None, {"Retry-After": faults.retry_after} if code == 429 else {})
                return
        digest = hashlib.md5(data).digest()
        begin = self.asked_from(f'"{digest.hex()}"')
        if begin >= len(data):
            self.say(416, None, {"Content-Range": f"bytes */{len(data)}"})
            return
        body = bytearray(data[begin:])
        headers = {"ETag": f'"{digest.hex()}"', "Accept-Ranges": "bytes", "Content-Type": "application/zip"}
        headers["Last-Modified"] = "Fri, 02 Sep 2016 00:00:00 GMT"
        if self.kaggle.takes("wrong_checksum"):
            digest = hashlib.md5(b"something else").digest()
        if not faults.no_checksum:
            crc32c = f"crc32c={base64.b64encode(_crc32c(data)).decode()}" if faults.only_crc32c else ""
            headers["x-goog-hash"] = crc32c or f"crc32c=AAAAAA==,md5={base64.b64encode(digest).decode()}"
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        if self.kaggle.takes("corrupt"):
            body[len(body) // 2] ^= 1
        if self.kaggle.takes("short"):
            del body[len(body) // 2 :]
            headers.pop("Content-Range", None)
        self.send(206 if begin else 200, headers, bytes(body))
        if self.kaggle.takes("changes"):
            other = self.kaggle.competitions[slug]
            self.kaggle.competitions[slug] = Competition(slug, other.archive[::-1], other.answers)

    def asked_from(self, etag: str) -> int:
        """The first byte that is asked for: 0 if no range, or the file is not the one that was meant."""
        wanted, kept = self.headers.get("Range"), self.headers.get("If-Range")
        if wanted is None or self.kaggle.faults.no_ranges or (kept is not None and kept != etag):
            return 0
        return int(wanted.removeprefix("bytes=").partition("-")[0])

    def send(self, code: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a body, with those faults that happen on the way."""
        faults = self.kaggle.faults
        self.send_response(code)
        chunked = faults.no_size
        for name, value in {**headers, **({"Transfer-Encoding": "chunked"} if chunked else {})}.items():
            self.send_header(name, value)
        if not chunked:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        stalled = self.kaggle.takes("stalls")
        with self.kaggle.lock:
            cut = faults.cuts.pop(0) if faults.cuts else None
        end = len(body) // 2 if stalled else len(body) if cut is None else min(cut, len(body))
        try:
            for start in range(0, end, 1 << 16):
                piece = body[start : min(start + (1 << 16), end)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked and end == len(body):
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client has had enough
            return
        if stalled:
            self.kaggle.closing.wait(60)
        self.close_connection = self.close_connection or end < len(body)

    def say(self, code: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        """A short answer, JSON if there is something to say; it tells the client that it is out of date."""
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("X-Kaggle-ApiVersion", "99.0.0")
        self.send_header("Content-Type", "application/json" if body else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _crc32c(data: bytes) -> bytes:
    """CRC-32C, byte by byte."""
    table = []
    for register in range(256):
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
        table.append(register)
    register = 0xFFFFFFFF
    for byte in data:
        register = (register >> 8) ^ table[(register ^ byte) & 0xFF]
    return (register ^ 0xFFFFFFFF).to_bytes(4, "big")


def _scored(competition: Competition, data: bytes) -> dict[str, Any]:
    """Status and score of a submission, and what is wrong with it."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    try:
        submitted = {i: float(chance) for i, chance in rows[1:]}
    except ValueError:
        return {"status": "ERROR", "errorDescription": "Evaluation Exception: not two columns with a number"}
    if set(submitted) != set(competition.answers) or len(rows) - 1 != len(submitted):
        return {"status": "ERROR", "errorDescription": "Evaluation Exception: the ids are not those of the solution"}
    return {"status": "COMPLETE", "publicScore": f"{log_loss(competition.answers, submitted):.5f}"}
