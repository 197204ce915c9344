"""Who may call the server: sixteen things that a page of another site can try, all refused; and the token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conftest import SmallRun
from headstart.io.extras import is_installed
from headstart.serving.app import SECURITY_HEADERS
from running_server import RunningServer, jpeg, running_server

pytestmark = pytest.mark.skipif(
    not is_installed("granian", "starlette", "prometheus_client"), reason="needs the extra serve"
)
PATIENT = ("--deadline", "300", "--receive", "300")
SECRET = "an-acceptable-secret-0123"
IMAGE = jpeg(1)


@pytest.fixture(scope="module")
def server(small_run: SmallRun) -> Iterator[RunningServer]:
    with running_server(small_run.path, *PATIENT, "--allow-host", "pets.example, 犬", cache=small_run.cache) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that all machines may call, with a token."""
    file = tmp_path_factory.mktemp("token") / "secret"
    file.write_text(SECRET + "\n")
    options = ("--host", "0.0.0.0", "--token-file", str(file))
    with running_server(small_run.path, *PATIENT, *options, cache=small_run.cache) as running:
        yield running


def post(server: RunningServer, headers: Mapping[str, str], path: str = "/predict") -> tuple[int, str]:
    answer = server.ask(path, IMAGE, headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    return answer.status, "" if answer.status == 200 else answer.json()["reason"]


ATTACKS = {
    "a name that was bound to 127.0.0.1 (DNS rebinding)": ({"Host": "evil.example"}, "host"),
    "the same with the right port": ({"Host": "evil.example:PORT"}, "host"),
    "a name that only begins like ours": ({"Host": "localhost.evil.example"}, "host"),
    "a name that only ends like ours": ({"Host": "evil-localhost"}, "host"),
    "an allowed name as a part of another": ({"Host": "pets.example.evil.example"}, "host"),
    "another address": ({"Host": "169.254.169.254"}, "host"),
    "an address in another notation": ({"Host": "2130706433"}, "host"),
    "a user in the host": ({"Host": "localhost@evil.example"}, "host"),
    "no host": ({"Host": ""}, "host"),
    "fetch from another site": ({"Origin": "https://evil.example"}, "origin"),
    "a form in another site": (
        {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
        "origin",
    ),
    "a sandboxed frame, or a file": ({"Origin": "null"}, "origin"),
    "another server on this machine": ({"Origin": "http://127.0.0.1:1"}, "origin"),
    "another scheme with our host": ({"Origin": "file://127.0.0.1:PORT"}, "origin"),
    "what the browser marks, without an origin": ({"Sec-Fetch-Site": "cross-site"}, "origin"),
    "what the browser marks, of a sister site": ({"Sec-Fetch-Site": "same-site"}, "origin"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_page_of_another_site_gets_no_answer(server: RunningServer, attack: str) -> None:
    headers, reason = ATTACKS[attack]
    given = {name: value.replace("PORT", str(server.port)) for name, value in headers.items()}
    assert post(server, given) == (403, reason)
    assert post(server, {}) == (200, "")


def test_there_are_sixteen() -> None:
    assert len(ATTACKS) == 16


def test_other_ways_of_another_site(server: RunningServer) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = server.ask("/predict", method="OPTIONS", headers=asked)
    assert preflight.status == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    two_hosts = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert server.raw(two_hosts).status in (400, 403)
    no_host = b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n"
    assert server.raw(no_host).status == 403
    elsewhere = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert server.raw(elsewhere).status == 403


def test_our_own_page_and_programs_are_answered(server: RunningServer) -> None:
    for host in (
        f"127.0.0.1:{server.port}",
        "localhost",
        "LOCALHOST:1",
        "[::1]:80",
        "pets.example",
        "Pets.Example:443",
    ):
        assert post(server, {"Host": host}) == (200, ""), host
    for host in (f"localhost:{server.port}", "pets.example"):
        assert post(server, {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}) == (200, "")
    behind_a_proxy = {"Host": "pets.example", "Origin": "https://pets.example", "Sec-Fetch-Site": "same-origin"}
    assert post(server, behind_a_proxy) == (200, "")
    assert post(server, {"Sec-Fetch-Site": "none"}) == (200, "")


OPENED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
"""What a browser sends when a link on a page of another site is followed."""


def test_a_link_on_another_site_opens_the_page(server: RunningServer, guarded: RunningServer) -> None:
    for each in (server, guarded):
        for site in ("cross-site", "same-site"):
            page = each.ask("/", headers={**OPENED, "Sec-Fetch-Site": site})
            assert page.status == 200 and page.headers["content-type"].startswith("text/html")
        assert each.ask("/", method="HEAD", headers=OPENED).status == 200


def test_a_link_on_another_site_opens_nothing_else(server: RunningServer) -> None:
    wrong = {"Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Mode": "no-cors"}, {"Origin": "https://evil.example"}
    for changes in wrong:
        assert server.ask("/", headers={**OPENED, **changes}).status == 403, changes
    for path in ("/metrics", "/openapi.json", "/predict", "/assets/app.js", "/v2"):
        assert server.ask(path, headers=OPENED).status == 403, path
    assert post(server, OPENED, "/") == (403, "origin")  # a form
    assert server.ask("/", headers={**OPENED, "Host": "evil.example"}).status == 403


def test_every_answer_has_the_headers_that_browsers_heed(server: RunningServer) -> None:
    answers = [
        server.ask("/"),
        server.ask("/predict", IMAGE),
        server.ask("/predict", b"no image"),
        server.ask("/nowhere"),
        server.ask("/predict"),
        server.ask("/predict", IMAGE, headers={"Host": "evil.example"}),
    ]
    assert [answer.status for answer in answers] == [200, 200, 422, 404, 405, 403]
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name.lower()] == value
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_a_refusal_reaches_clients_that_first_send_everything(server: RunningServer, guarded: RunningServer) -> None:
    large = bytes(10_000_000)
    refusals = [
        (guarded, "/predict", {}, 401),
        (server, "/v1/classify", {"Host": "evil.example"}, 403),
        (server, "/nothing", {}, 404),
        (server, "/healthz", {}, 405),
        (server, "/predict", {"Content-Encoding": "gzip"}, 415),
    ]
    for asked, path, headers, status in refusals * 2:
        assert asked.ask(path, large, headers=headers).status == status
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n"
    assert guarded.raw(f"{head}Expect: 100-continue\r\n\r\n".encode()).status == 401  # it waits, so nothing is awaited


def test_a_token_is_needed_for_all_that_says_something(guarded: RunningServer) -> None:
    right = {"Authorization": f"Bearer {SECRET}"}
    for path, body in (("/predict", IMAGE), ("/v1/classify", IMAGE), ("/", IMAGE), ("/models/headstart", IMAGE)):
        assert post(guarded, right, path) == (200, "")
        assert post(guarded, {"Authorization": f"bearer  {SECRET} "}, path) == (200, "")
        for wrong in (
            "",
            f"Bearer {SECRET[:-1]}",
            f"Bearer {SECRET}x",
            f"Basic {SECRET}",
            SECRET,
            "Bearer",
            "Bearer é",
        ):
            given = {"Authorization": wrong.encode("utf-8").decode("latin-1")} if wrong else {}
            assert post(guarded, given, path) == (401, "token"), wrong
        assert body
    for path in ("/metrics", "/openapi.json"):
        assert guarded.ask(path).status == 401
        assert guarded.ask(path, headers=right).status == 200
    for path in ("/healthz", "/readyz", "/"):
        assert guarded.ask(path).status == 200
    refused = guarded.ask("/predict", IMAGE)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert SECRET not in guarded.notes


def test_a_server_for_all_machines_is_called_by_its_address(guarded: RunningServer) -> None:
    right = {"Authorization": f"Bearer {SECRET}"}
    for host in ("10.1.2.3:8000", "[fe80::1]:8000", "localhost"):
        assert post(guarded, {"Host": host, **right}) == (200, "")
    assert post(guarded, {"Host": "evil.example", **right}) == (403, "host")


def test_the_secret_is_not_shown_to_other_users_of_the_machine(guarded: RunningServer) -> None:
    command = Path(f"/proc/{guarded.process.pid}/cmdline")
    if not command.exists():
        pytest.skip("needs /proc")
    assert SECRET.encode() not in command.read_bytes()
