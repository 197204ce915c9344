"""Downloads from a Kaggle that misbehaves: cuts, stalls, wrong bytes, redirects; and where a key may never be found."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from headstart.errors import BadDownload, NoCredentials, RemoteError, Unreachable, WriteError
from headstart.kaggle_api import client
from headstart.kaggle_api.client import DownloadResult, download, forget, parse_slug
from headstart.kaggle_api.http_download import FetchResult, RemoteFile, RetryPolicy, describe, fetch
from kaggle_server import KEY, REDUX, STORAGE, TOKEN, USER, Competition, KaggleServer, drawn_competition, kaggle_server

QUICK = RetryPolicy(connect=3, silent=0.5, pause=0.01, longest=0.2, tries=5)
SLUG = parse_slug(REDUX)
COMPETITION = drawn_competition()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KaggleServer]:
    """A running server with the drawn competition, and this process's client pointed to it."""
    with kaggle_server(COMPETITION) as running:
        for name, value in {**running.environment, "KAGGLE_CONFIG_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where `bring` brings it."""
    return tmp_path / "downloads" / "archive.zip"


def bring(place: Path, patience: RetryPolicy = QUICK) -> FetchResult:
    """The archive from the storage, as the process that talks to Kaggle brings it."""
    address = f"http://{STORAGE}/{REDUX}.zip"
    return fetch(lambda: requests.Request("GET", address).prepare(), place, what=REDUX, patience=patience)


def whole(got: DownloadResult | FetchResult, competition: Competition = COMPETITION) -> bool:
    """Whether a download is the archive, to the byte, and says so."""
    data = got.path.read_bytes()
    return data == competition.archive and got.sha256 == hashlib.sha256(data).hexdigest() and got.size == len(data)


def left(place: Path) -> list[str]:
    """What lies where the archive is brought."""
    return sorted(p.name for p in place.parent.glob("*"))


def ranges(server: KaggleServer) -> list[str | None]:
    """Which bytes the storage was asked for, request by request; None is all."""
    return [d.headers.get("Range") for d in server.downloads]


def cut_short(server: KaggleServer, place: Path) -> None:
    """A download that got 50,000 bytes."""
    server.faults.cuts = [50_000, *[0] * 20]
    with pytest.raises(Unreachable):
        bring(place)
    server.faults.cuts, server.seen[:] = [], []


# Cuts


@pytest.mark.parametrize("seed", range(5))
def test_cut_at_twenty_random_bytes(server: KaggleServer, place: Path, seed: int) -> None:
    cuts = np.random.default_rng(seed).integers(1, len(COMPETITION.archive) // 21, 20).tolist()
    server.faults.cuts = [*cuts]
    got = bring(place)
    assert whole(got)
    assert got.checked == "md5"
    begins = np.cumsum([0, *cuts]).tolist()
    assert ranges(server) == [None, *(f"bytes={begin}-" for begin in begins[1:])]


def test_cut_twenty_times_with_the_client(server: KaggleServer) -> None:
    server.faults.cuts = [0, *np.random.default_rng(7).integers(1, len(COMPETITION.archive) // 21, 20).tolist()]
    assert whole(download(SLUG, patience=QUICK))
    assert server.faults.cuts == []
    assert server.calls == ["DownloadDataFiles"]
    assert len(server.downloads) == 22  # the client opens the address itself, then 21 parts


def test_what_has_come_is_kept_and_gone_on_with_by_the_next_call(server: KaggleServer, place: Path) -> None:
    server.faults.cuts = [50_000, *[0] * 20]
    with pytest.raises(Unreachable) as caught:
        bring(place)
    assert str(caught.value) == (
        f"{REDUX}: the download is stuck: the connection was interrupted (5 times in a row, at byte 50,000 of "
        f"{len(COMPETITION.archive):,}).\n  The data so far is kept: run the same command again to resume."
    )
    assert left(place) == ["archive.zip.partial", "archive.zip.partial.json"]
    server.faults.cuts, server.seen[:] = [], []
    assert whole(bring(place))
    assert ranges(server) == ["bytes=50000-"]
    assert left(place) == ["archive.zip", "archive.zip.partial.json"]


def test_of_a_whole_archive_only_the_last_byte_is_fetched_again(server: KaggleServer) -> None:
    download(SLUG, patience=QUICK)
    server.seen.clear()
    got = download(SLUG, patience=QUICK)
    assert whole(got)
    last = len(COMPETITION.archive) - 1
    assert ranges(server) == [None, f"bytes={last}-"]  # the client opens the address itself, without reading from it
    forget(got)
    assert list(got.path.parent.iterdir()) == []


def test_a_whole_archive_of_an_earlier_version_is_not_taken_for_the_newest(server: KaggleServer, place: Path) -> None:
    bring(place)
    server.competitions[REDUX] = drawn_competition(each=15)
    server.seen.clear()
    assert whole(bring(place), server.competitions[REDUX])
    assert ranges(server) == [f"bytes={len(COMPETITION.archive) - 1}-"]
    server.competitions[REDUX] = Competition(REDUX, server.competitions[REDUX].archive[::-1], COMPETITION.answers)
    assert whole(bring(place), server.competitions[REDUX])  # of the same size


def test_a_whole_archive_is_kept_while_the_server_cannot_be_asked(server: KaggleServer, place: Path) -> None:
    bring(place)
    server.faults.broken = 99
    with pytest.raises(Unreachable, match=rf"stuck: .* at byte {len(COMPETITION.archive) - 1:,} of "):
        bring(place)
    server.faults.broken = 0
    server.seen.clear()
    assert whole(bring(place))
    assert ranges(server) == [f"bytes={len(COMPETITION.archive) - 1}-"]


def test_a_part_of_another_version_is_not_gone_on_with(server: KaggleServer, place: Path) -> None:
    cut_short(server, place)
    server.competitions[REDUX] = drawn_competition(each=15)
    assert whole(bring(place), server.competitions[REDUX])


def test_a_file_that_changes_while_it_is_fetched_is_begun_anew(server: KaggleServer, place: Path) -> None:
    server.faults.cuts, server.faults.changes = [50_000], 1
    assert whole(bring(place), server.competitions[REDUX])
    assert server.competitions[REDUX].archive != COMPETITION.archive


def test_a_partial_answer_of_another_size_is_not_taken(server: KaggleServer, place: Path) -> None:
    cut_short(server, place)
    facts = place.with_name("archive.zip.partial.json")
    known = json.loads(facts.read_text())
    facts.write_text(json.dumps({**known, "size": known["size"] + 1, "md5": "", "crc32c": ""}))
    assert whole(bring(place))
    assert ranges(server) == ["bytes=50000-", None]


@pytest.mark.parametrize("facts", ["", "{}", "[]", '{"size": 1, "etag": "", "modified": "", "md5": "", "crc32c": ""}'])
def test_a_part_of_which_nothing_is_known_is_nothing(server: KaggleServer, place: Path, facts: str) -> None:
    cut_short(server, place)
    place.with_name("archive.zip.partial.json").write_text(facts)
    assert whole(bring(place))
    assert ranges(server) == [None]


def test_a_part_whose_bytes_are_others_is_found_out_by_the_checksum(server: KaggleServer, place: Path) -> None:
    cut_short(server, place)
    place.with_name("archive.zip.partial").write_bytes(bytes(50_000))
    assert whole(bring(place))
    assert ranges(server) == ["bytes=50000-", None]


# Every other fault


@pytest.mark.parametrize(
    ("faults", "downloads"),
    [
        ({"short": 1}, 2),
        ({"corrupt": 1}, 2),
        ({"only_crc32c": True}, 1),
        ({"only_crc32c": True, "corrupt": 1}, 2),
        ({"wrong_checksum": 1}, 2),
        ({"stalls": 1}, 2),
        ({"too_many": 3}, 4),
        ({"broken": 3}, 4),
        ({"expired": 3}, 4),
        ({"no_ranges": True, "cuts": [5_000, 5_000]}, 3),
        ({"no_size": True}, 1),
        ({"no_size": True, "no_checksum": True}, 1),
        ({"no_size": True, "no_checksum": True, "cuts": [70_000, 1]}, 3),
        ({"no_checksum": True, "cuts": [1, 2, 3]}, 4),
    ],
)
def test_faults_that_pass(server: KaggleServer, place: Path, faults: dict[str, object], downloads: int) -> None:
    for name, value in faults.items():
        setattr(server.faults, name, value)
    got = bring(place)
    assert whole(got)
    unchecked = "length" if faults.get("no_size") else "size"
    assert got.checked == (unchecked if faults.get("no_checksum") else "crc32c" if faults.get("only_crc32c") else "md5")
    assert len(server.downloads) == downloads


@pytest.mark.parametrize(
    ("faults", "trouble"),
    [
        ({"too_many": 99}, "too many requests"),
        ({"broken": 99}, "the server has an internal problem (503)"),
        ({"expired": 99}, "the address is no longer valid (403)"),
        ({"cuts": [0] * 99}, "the connection was interrupted"),
    ],
)
def test_faults_that_stay(server: KaggleServer, place: Path, faults: dict[str, object], trouble: str) -> None:
    for name, value in faults.items():
        setattr(server.faults, name, value)
    with pytest.raises(Unreachable) as caught:
        bring(place)
    known = f" of {len(COMPETITION.archive):,}" if "cuts" in faults else ""
    assert str(caught.value) == (
        f"{REDUX}: the download is stuck: {trouble} (5 times in a row, at byte 0{known}).\n"
        "  The data so far is kept: run the same command again to resume."
    )
    assert not place.exists()


def test_a_server_that_goes_silent_every_time(server: KaggleServer, place: Path) -> None:
    server.faults.stalls, server.faults.no_ranges = 99, True
    with pytest.raises(
        Unreachable, match=r"the server stopped responding \(5 times in a row, at byte 9\d,\d{3} of 1\d\d,"
    ):
        bring(place, RetryPolicy(connect=1, silent=0.2, pause=0.01, longest=0.2, tries=5))
    assert not place.exists()


def test_wrong_bytes_every_time(server: KaggleServer, place: Path) -> None:
    server.faults.corrupt = 99
    with pytest.raises(BadDownload) as caught:
        bring(place)
    assert str(caught.value) == (
        f"{REDUX}: its bytes differ from those that the server announced (checksum), twice; nothing was kept.\n"
        "  A proxy may be changing the data. Try again later, or over another network."
    )
    assert left(place) == []


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"expired": 99}, f"{REDUX}: Kaggle's storage answered with code 403.\n  Try again later."),
        ({"api_too_many": 99}, "Kaggle answered with code 429: Too many requests.\n  Try again later."),
        (
            {"status": {"DownloadDataFiles": (500, "")}},
            "Kaggle answered with code 500: it gives no reason.\n  Try again later.",
        ),
        (
            {"api_stall": "DownloadDataFiles"},
            "Kaggle did not respond for 6 s.\n  The data so far is kept: run the same command again to resume.",
        ),
    ],
)
def test_faults_of_the_api(
    server: KaggleServer, faults: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in faults.items():
        setattr(server.faults, name, value)
    monkeypatch.setattr(client, "MORE_PATIENCE", 2.5)
    with pytest.raises(Unreachable) as caught:
        download(SLUG, patience=QUICK)
    assert str(caught.value) == message


def test_retry_after_is_kept_to(server: KaggleServer, place: Path) -> None:
    server.faults.too_many, server.faults.retry_after = 2, "1"
    begin = time.monotonic()
    assert whole(bring(place, RetryPolicy(connect=3, silent=2, pause=0.01, longest=5, tries=5)))
    assert time.monotonic() - begin >= 2.0


def test_the_archive_from_the_api_itself(server: KaggleServer) -> None:
    server.faults.direct, server.faults.cuts = True, [0, 40_000]
    assert whole(download(SLUG, patience=QUICK))
    assert server.downloads == []
    assert [s.headers.get("Range") for s in server.seen] == [None, None, "bytes=40000-"]


def test_what_headers_say() -> None:
    assert describe({"Transfer-Encoding": "chunked", "Content-Length": "5"}).size == -1
    assert describe({"Content-Length": "5", "ETag": '"x"'}).size == 5
    assert describe({"Content-MD5": "not base64"}).md5 == ""
    hashes = "crc32c=AAAAAA==,md5=XrY7u+Ae7tCTyyK7j1rNww=="
    assert describe({"x-goog-hash": hashes}).md5 == hashlib.md5(b"hello world").hexdigest()
    assert describe({"x-goog-hash": hashes}).crc32c == "00000000"
    assert describe({"Content-MD5": "XrY7u+Ae7tCTyyK7j1rNww=="}).md5 == hashlib.md5(b"hello world").hexdigest()
    assert (
        RemoteFile(5, 'W/"weak"', "Fri, 02 Sep 2016 00:00:00 GMT", "", "").validator == "Fri, 02 Sep 2016 00:00:00 GMT"
    )


# Two at once, and kills


def test_two_at_once(server: KaggleServer, place: Path) -> None:
    server.faults.stalls = 1
    patient = RetryPolicy(connect=3, silent=1, pause=0.01, longest=0.2, tries=5)
    first = threading.Thread(target=bring, args=(place, patient))
    first.start()
    until = time.monotonic() + 20
    while not server.downloads and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(WriteError, match="another process is downloading the same file"):
        bring(place)
    first.join()
    assert whole(bring(place))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such kill")
def test_killed_in_the_middle_and_started_again(server: KaggleServer, tmp_path: Path, own_cache: Path) -> None:
    server.faults.stalls = 2
    command = [sys.executable, "-m", "headstart", "kaggle", REDUX, "--out", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        until = time.monotonic() + 20
        while part_of(own_cache) < len(COMPETITION.archive) // 2 and time.monotonic() < until:
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    assert part_of(own_cache) == len(COMPETITION.archive) // 2
    assert not (tmp_path / "data").exists()
    server.seen.clear()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [d.headers.get("Range") for d in server.downloads] == [None, f"bytes={len(COMPETITION.archive) // 2}-"]
    assert len(list((tmp_path / "data" / "train").iterdir())) == 40


def part_of(cache: Path) -> int:
    """Bytes of the download under way."""
    return sum(p.stat().st_size for p in (cache / "downloads").glob("*.partial"))


# Keys


@pytest.mark.parametrize("place", ["http://evil.test/steal", f"http://{STORAGE}/{REDUX}.zip"])
def test_no_credential_goes_to_another_host(server: KaggleServer, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults.redirect = place
    for environment, secret in ((server.environment, KEY), (server.token_environment, TOKEN)):
        monkeypatch.delenv("KAGGLE_KEY", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        server.seen.clear()
        try:
            forget(download(SLUG, patience=QUICK))
        except Unreachable as error:
            assert "evil.test" in place
            assert str(error) == f"{REDUX}: Kaggle's storage answered with code 404.\n  Try again later."
        assert any(s.says(secret) for s in server.seen if s.host == "localhost")
        elsewhere = [s for s in server.seen if s.host != "localhost"]
        assert elsewhere
        for seen in elsewhere:
            assert not seen.says(secret), seen.url
            assert "Authorization" not in seen.headers


@pytest.mark.parametrize("code", [307, 308])
def test_no_body_with_a_token_is_sent_on_to_another_host(
    server: KaggleServer, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    server.faults.moved = {"IntrospectToken": (code, "http://evil.test/introspect")}
    with pytest.raises(RemoteError):
        download(SLUG, patience=QUICK)
    assert {s.host for s in server.seen} == {"localhost"}


QUIET_FAULTS: tuple[tuple[bool, dict[str, object]], ...] = (
    (True, {"cuts": [0, *[10_000] * 9]}),
    (True, {"status": {"DownloadDataFiles": (403, f"{USER} with {KEY} may not")}}),
    (False, {"corrupt": 99}),
    (False, {"status": {"DownloadDataFiles": (401, "no")}}),
    (False, {"redirect": "http://evil.test/steal"}),
    (False, {"direct": True}),
)


@pytest.mark.parametrize(("loud", "faults"), QUIET_FAULTS)
def test_keys_are_found_nowhere(
    server: KaggleServer,
    faults: dict[str, object],
    loud: bool,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in the cache, the messages, the logs at their loudest, the traceback with its variables; nor a signed address."""
    caplog.set_level(logging.DEBUG)
    if loud:
        monkeypatch.setenv("VERBOSE", "1")
        monkeypatch.setenv("VERBOSE_OUTPUT", "1")
    for name, value in faults.items():
        setattr(server.faults, name, value)
    told = ""
    try:
        download(SLUG, patience=QUICK)
    except RemoteError as error:
        told = everything_about(error)
    out, err = capfd.readouterr()
    written = b"".join(p.read_bytes() for p in own_cache.rglob("*") if p.is_file())
    text = "\n".join([told, out, err, caplog.text, *map(str, own_cache.rglob("*"))])
    assert any(s.says(KEY) for s in server.seen)
    for secret in (KEY, "X-Goog-Signature", KEY[:12]):
        assert secret not in text
        assert secret.encode() not in written


def everything_about(error: BaseException) -> str:
    """The error and its causes, with the variables of every frame, as a debugger or a notebook shows them."""
    parts: list[str] = []
    frame = error.__traceback__
    while frame is not None:
        if str(frame.tb_frame.f_globals.get("__name__")).startswith("headstart."):  # not this test, wherever it is
            parts += [f"{name} = {value!r}" for name, value in frame.tb_frame.f_locals.items()]
        frame = frame.tb_next
    inner = error.__cause__ or error.__context__
    return "\n".join([repr(error), str(error), *parts, *([everything_about(inner)] if inner else [])])


def test_a_key_that_no_header_can_carry_is_not_shown(server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", f"{TOKEN}\nwith a line break")
    with pytest.raises((NoCredentials, RemoteError)) as caught:
        download(SLUG, patience=QUICK)
    assert TOKEN not in everything_about(caught.value)
