"""Stores: a folder and a bucket behave alike; failures of servers are retried or named; credentials appear nowhere."""

from __future__ import annotations

import logging
import os
import traceback
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headstart.errors import ChangedInStore, DeniedInStore, MissingInStore, StoreError, StoreRefused, StoreUnreachable
from headstart.io.stores import retries
from headstart.io.stores.store import Store, open_store
from s3_servers import CANARY, FaultProxy, azurite, fault_proxy, make_bucket, moto, rclone, seaweed

KEYS = ["a b/é+%#?&.txt", "a-b", "a/b", "a/c.jpg", "a0", "z/y/x"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("obstore", reason="needs obstore")
    with moto() as address:
        make_bucket(address, "photos")
        yield address


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    for name, value in CANARY.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, settings: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "store")
    settings.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("server"))
    return open_store(f"s3://photos/{tmp_path.name}")


@pytest.fixture
def proxy(server: str, settings: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(server) as between:
        settings.setenv("AWS_ENDPOINT_URL", between.address)
        settings.setattr(retries, "FIRST_WAIT", 0.002)
        yield between


def test_a_file_is_created_once_and_read_whole_or_in_part(store: Store) -> None:
    assert list(store.list()) == []
    assert store.create("a/b.txt", b"hello")
    assert not store.create("a/b.txt", b"other")
    assert store.read("a/b.txt") == b"hello"
    assert store.read("a/b.txt", start=1, length=2) == b"el"
    assert store.read("a/b.txt", start=3) == b"lo"
    assert store.read("a/b.txt", start=3, length=100) == b"lo"
    assert store.read("a/b.txt", start=9, length=2) == store.read("a/b.txt", length=0) == b""
    store.write("a/b.txt", b"new")
    assert store.read("a/b.txt") == b"new"
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    with pytest.raises(MissingInStore, match="is missing"):
        store.read("a/b.txt")
    assert store.keeps_conditions()
    assert list(store.list()) == []


def test_files_are_listed_in_the_order_of_their_keys_and_from_any_of_them(store: Store) -> None:
    for key in KEYS:
        store.write(key, key.encode())
    listed = list(store.list())
    assert [file.key for file in listed] == sorted(KEYS)
    assert [file.bytes for file in listed] == [len(key.encode()) for key in sorted(KEYS)]
    for after in (*KEYS, "a", "b", "zz"):
        assert [file.key for file in store.list(after)] == [key for key in sorted(KEYS) if key > after]


def test_a_file_that_changed_since_it_was_listed_is_refused(store: Store) -> None:
    store.write("a", b"first")
    (listed,) = store.list()
    assert store.read("a", etag=listed.etag) == b"first"
    store.write("a", b"other bytes")
    with pytest.raises(ChangedInStore, match="has changed since it was listed"):
        store.read("a", etag=listed.etag, start=1, length=2)


def test_of_many_that_create_one_file_one_does(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda i: store.create("one", b"%d" % i), range(16))) == 1


def test_a_local_file_is_copied_whole(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(6 << 20))
    store.write("large", file)
    assert store.read("large") == file.read_bytes()


def test_a_folder_is_listed_through_links_and_without_unfinished_files(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.write("a/1.txt", b"1")
    (tmp_path / "store" / "a" / "loop").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "link.txt").symlink_to(tmp_path / "store" / "a" / "1.txt")
    (tmp_path / "store" / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "store" / f".x.{'0' * 32}.part").write_bytes(b"")
    assert [file.key for file in store.list()] == ["a/1.txt", "link.txt"]


def test_a_folder_that_may_not_be_read_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path / "store")
    for key in ("a/1.txt", "b/2.txt", "c/3.txt"):
        store.write(key, b"x")
    closed = tmp_path / "store" / "b"
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("needs a user who may not read everything, such as root may")
        assert [file.key for file in store.list()] == ["a/1.txt", "c/3.txt"]
    finally:
        closed.chmod(0o700)
    assert caplog.messages == [f"{closed}: left out: it cannot be read (Permission denied)."]


@pytest.mark.parametrize("key", ["", "../x", "/etc/passwd", "a/../../x"])
def test_no_key_leads_out_of_the_folder(key: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a key"):
        open_store(tmp_path).read(key)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "expected s3://bucket/prefix/"),
        ("s3://b/../x", "expected s3://bucket/prefix/"),
        ("s3://KEY:CANARY@b/x", "contains a user, a password or a signature"),
        ("s3://b/x?X-Amz-Signature=CANARY", "contains a user, a password or a signature"),
        ("az://container/x", "cannot be opened with the settings in the environment"),
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_secrets(
    url: str, message: str, settings: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(StoreError, match=message) as caught:
        open_store(Path(url))
    assert "CANARY" not in str(caught.value)


def test_offline_refuses_urls_before_a_package_is_needed() -> None:
    with pytest.raises(StoreUnreachable, match=r"^s3://photos/: is a URL, and --offline forbids network access\."):
        open_store("s3://photos", offline=True)
    with pytest.raises(StoreError) as caught:
        open_store("s3://AKIACANARY:SECRET@photos/x", offline=True)
    assert caught.value.message.startswith("s3://: the URL contains a user, a password or a signature")
    assert "CANARY" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and permissions")
def test_what_is_no_file_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    (tmp_path / "c.jpg").symlink_to("gone.jpg")
    (tmp_path / "d").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "e.jpg")
    assert [file.key for file in open_store(tmp_path).list()] == ["a.jpg"]


def test_a_file_that_goes_while_its_folder_is_listed_is_passed_over(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"1")
    files = open_store(tmp_path).list()
    assert next(files).key == "a.jpg"
    (tmp_path / "b.jpg").unlink()
    assert [file.key for file in files] == ["c.jpg"]


def test_listing_a_folder_holds_names_only(tmp_path: Path) -> None:
    for number in range(2_000):
        (tmp_path / f"{number:06}.jpg").touch()
    tracemalloc.start()
    try:
        for file in open_store(tmp_path).list():
            if file.key == "001999.jpg":
                held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2_000 * 100


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on open files")
def test_a_fault_of_the_whole_disk_is_not_one_of_the_file(tmp_path: Path) -> None:
    import resource

    (tmp_path / "a.jpg").write_bytes(b"1")
    store, limits = open_store(tmp_path), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(StoreUnreachable, match=r"a\.jpg: cannot be read: Too many open files\."):
            store.read("a.jpg")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


ANSWERS = [
    ((404, "NoSuchBucket"), StoreRefused, "s3://photos: there is no such bucket."),
    ((403, "AccessDenied"), DeniedInStore, "s3://photos/x/k: no permission (AccessDenied)."),
    ((403, "InvalidObjectState"), StoreError, "s3://photos/x/k: is archived (InvalidObjectState)."),
    ((400, "ExpiredToken"), StoreRefused, "s3://photos: the credentials have expired (ExpiredToken)."),
    ((403, "InvalidAccessKeyId"), StoreRefused, "s3://photos: the credentials are not accepted (InvalidAccessKeyId)."),
    ((400, "AuthorizationHeaderMalformed"), StoreRefused, "s3://photos: is in another region."),
    ((400, "EntityTooLarge"), StoreError, "s3://photos/x/k: the request was refused (EntityTooLarge)."),
    (
        (400, "RequestTimeout"),
        StoreUnreachable,
        "s3://photos/x/k: the server answered 8 times with 400 RequestTimeout.",
    ),
    ((503, "SlowDown"), StoreUnreachable, "s3://photos/x/k: the server answered 8 times with 503 SlowDown."),
]


@pytest.mark.parametrize(("answer", "kind", "message"), ANSWERS)
def test_what_a_server_refuses_is_named(
    answer: tuple[int, str], kind: type[StoreError], message: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.answer = answer
    store = open_store("s3://photos/x")
    for ask in (lambda: store.read("k"), lambda: store.create("k", b""), lambda: store.write("k", b"")):
        with pytest.raises(kind) as caught:
            ask()
        assert caught.value.message == message
        assert caught.value.hint or kind is StoreError
        assert "CANARY" not in "".join(traceback.format_exception(caught.value)) + repr(store) + caplog.text
    with pytest.raises(kind):
        list(store.list())


def test_a_server_that_is_not_there_is_named_at_once(settings: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    settings.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnreachable, match=r"^s3://photos/k: the server cannot be reached\."):
        open_store("s3://photos").read("k")


def test_plain_http_is_used_for_the_named_endpoint_only(server: str, settings: pytest.MonkeyPatch) -> None:
    settings.setenv("AWS_ENDPOINT_URL", server.replace("http:", "https:"))
    with pytest.raises(StoreUnreachable):
        open_store("s3://photos").read("k")


def test_keys_come_from_the_profile_that_amazons_tools_use(server: str, settings: pytest.MonkeyPatch) -> None:
    for name in CANARY:
        settings.delenv(name)
    settings.setenv("AWS_ENDPOINT_URL", server)
    with pytest.raises(StoreRefused, match=r"no credentials were found|no permission"):
        open_store("s3://photos/x").read("k")
    folder = Path(os.environ["HOME"]) / ".aws"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text("[lab]\naws_access_key_id = CANARYKEY\naws_secret_access_key = CANARYSECRET\n")
    (folder / "config").write_text("[profile lab]\nregion = eu-north-1\n")
    settings.setenv("AWS_PROFILE", "lab")
    store = open_store("s3://photos/profile")
    assert store.create("k", b"1")
    assert "CANARY" not in repr(store) + repr(vars(store))


def test_faults_change_nothing_but_the_time(proxy: FaultProxy) -> None:
    """S6: 20 % refused, 10 % cut, 5 % of a wrong length, a stall: the same bytes, at most 1.5 times as many requests."""
    store = open_store("s3://photos/faults")
    contents = {f"{i:03}.bin": os.urandom(2_000 + i) for i in range(100)}
    for key, data in contents.items():
        store.write(key, data)
    proxy.requests.clear()
    proxy.refused, proxy.cut, proxy.wrong, proxy.stalls = 0.20, 0.10, 0.05, [1.0]
    listed = list(store.list())
    assert [file.key for file in listed] == sorted(contents)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda file: store.read(file.key, etag=file.etag), listed))
    assert dict(zip(sorted(contents), read, strict=True)) == contents
    assert len(proxy.requests) <= 2.0 * (len(contents) + 1)  # 1 / 0.65 = 1.54 is the mean without any waste


def test_a_server_that_asks_to_slow_down_gets_fewer_requests_at_once(proxy: FaultProxy) -> None:
    store = open_store("s3://photos/slow")
    store.write("k", b"1")
    proxy.refused = 1.0
    with pytest.raises(StoreUnreachable):
        store.read("k")
    assert store._pace.limit == 1.0
    proxy.refused = 0.0
    for _ in range(5):
        store.read("k")
    assert 2.0 < store._pace.limit < 5.0


@pytest.mark.slow
@pytest.mark.parametrize("serve", [seaweed, rclone])
def test_real_servers_answer_as_the_folder_does(
    serve: object, tmp_path: Path, settings: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("obstore")
    (tmp_path / "data").mkdir()
    with serve(tmp_path / "data") as address:
        settings.setenv("AWS_ENDPOINT_URL", address)
        settings.delenv("AWS_SESSION_TOKEN")
        make_bucket(address, "photos")
        store = open_store("s3://photos/x")
        contents = {f"{i % 3}/{i:04}.txt": b"%d" % i for i in range(1_200)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(store.write, contents, contents.values()))
        listed = list(store.list())
        assert sorted(file.key for file in listed) == sorted(contents)
        assert [file.key for file in store.list()] == [file.key for file in listed]
        assert all(store.read(file.key, etag=file.etag) == contents[file.key] for file in listed[:50])
        assert store.read("1/0001.txt", start=0, length=1) == b"1"
        with pytest.raises(MissingInStore):
            store.read("nothing")
        if serve is seaweed:
            assert store.keeps_conditions()
            assert not store.create("0/0000.txt", b"")
        else:
            assert not store.keeps_conditions()
            assert "ignores the condition `If-None-Match`" in caplog.text


@pytest.mark.slow
def test_azure_answers_as_the_folder_does(tmp_path: Path, settings: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    settings.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    settings.setenv("AZURE_ALLOW_HTTP", "true")
    with azurite(tmp_path):
        store = open_store("az://photos/x")
        assert store.create("a/é b.txt", b"hello")
        assert not store.create("a/é b.txt", b"other")
        assert store.read("a/é b.txt", start=1, length=2) == b"el"
        (listed,) = store.list()
        store.write("a/é b.txt", b"new")
        with pytest.raises(ChangedInStore):
            store.read("a/é b.txt", etag=listed.etag)
        with pytest.raises(MissingInStore, match="is missing"):
            store.read("nothing")
        store.delete("nothing")
        with pytest.raises(StoreRefused, match=r"^az://nowhere: there is no such bucket"):
            list(open_store("az://nowhere").list())
        assert store.keeps_conditions()
