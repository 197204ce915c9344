"""A small server on this machine that answers as the hub does, and a fresh process whose hub it is."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import PATIENCE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWNER, TOKEN = "anna", "hf_canary"
"""Who may upload, to repositories of that owner."""


def mode(path: str) -> str:
    """How a file of that name is uploaded."""
    return "lfs" if path.endswith((".safetensors", ".onnx", ".bin")) else "regular"


@dataclass
class Hub:
    """Serves ``folder/ORG/REPO/FILE`` at ``/ORG/REPO/resolve/main/FILE``, as the hub does; notes each request."""

    folder: Path
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, address as sent, Range; of files
    cut: set[str] = field(default_factory=set)  # files whose next GET breaks off halfway
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository -> status, X-Error-Code
    slow: dict[str, float] = field(default_factory=dict)  # repository -> seconds before it sends weights
    private: dict[str, bool] = field(default_factory=dict)  # repositories that were made -> whether they are private
    large: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by SHA-256
    commits: list[tuple[str, str]] = field(default_factory=list)  # repository, summary
    cards: list[str] = field(default_factory=list)  # README.md whose metadata was to be checked
    only_existing: bool = False  # the token may write to repositories that exist, and make none
    down: int = 0  # requests to come that are answered with 503
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, repo: str, name: str, content: bytes) -> None:
        (self.folder / repo).mkdir(parents=True, exist_ok=True)
        (self.folder / repo / name).write_bytes(content)

    def got(self, name: str) -> list[tuple[str, str, str]]:
        return [entry for entry in self.requests if entry[0] == "GET" and entry[1].endswith(name)]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        wanted = self.headers.get("Range", "")
        if self.path.endswith("/api/agent-harnesses"):  # the client's own daily question; no file of ours
            return self.refuse(404, "")
        self.hub.requests.append((self.command, self.path, wanted))
        if self.path == "/api/whoami-v2":
            return self.say({"name": OWNER, "type": "user"})
        if self.path.startswith("/api/models/"):
            repo = self.path.removeprefix("/api/models/")
            if repo not in self.hub.private:
                return self.refuse(404, "RepoNotFound")
            return self.say({"id": repo, "private": self.hub.private[repo], "siblings": [], "tags": []})
        address = self.path.partition("://")[2].partition("/")[2] if "://" in self.path else self.path[1:]
        repo, _, rest = address.partition("/resolve/")
        name = rest.partition("/")[2]
        file = self.hub.folder / repo / name
        if repo in self.hub.refused or not file.parent.is_dir():
            return self.refuse(*self.hub.refused.get(repo, (404, "RepoNotFound")))
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        content = file.read_bytes()
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body and name in self.hub.cut:
            self.hub.cut.remove(name)
            self.wfile.write(content[start : len(content) // 2])
            self.close_connection = True
        elif body:
            time.sleep(self.hub.slow.get(repo, 0.0) if name.endswith(".safetensors") else 0.0)
            self.wfile.write(content[start:])
        return None

    # Uploads

    def do_POST(self) -> None:
        self.take(self.body())

    def do_PUT(self) -> None:
        content = self.body()
        self.hub.requests.append((self.command, self.path, ""))
        if self.hub.down:
            self.hub.down -= 1
            return self.refuse(503, "")
        assert self.path == f"/upload/{hashlib.sha256(content).hexdigest()}"
        self.hub.large[self.path.removeprefix("/upload/")] = content
        return self.say({})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def take(self, body: bytes) -> None:
        self.hub.requests.append((self.command, self.path, ""))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "")
        repo = "/".join(self.path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            return self.say({"warnings": [], "errors": []})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.say({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.say({"transfer": "basic", "objects": [self.wanted(o) for o in json.loads(body)["objects"]]})
        return self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if repo.partition("/")[0] != OWNER or self.hub.only_existing:
            return self.refuse(403, "")
        if repo in self.hub.private:
            return self.refuse(
                409, "", {"error": "You already created this model repo", "url": f"{self.hub.address}/{repo}"}
            )
        self.hub.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
        return self.say({"url": f"{self.hub.address}/{repo}"})

    def wanted(self, large: dict[str, Any]) -> dict[str, Any]:
        upload = {"upload": {"href": f"{self.hub.address}/upload/{large['oid']}"}}
        return large if large["oid"] in self.hub.large else {**large, "actions": upload}

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        header, *files = lines
        for line in files:
            value = line["value"]
            content = self.hub.large[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
            self.hub.put(repo, value["path"], content)
        self.hub.commits.append((repo, header["value"]["summary"]))
        return self.say(
            {"commitUrl": f"{self.hub.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        )

    def say(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, code: str, document: dict[str, Any] | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        content = b"" if document is None else json.dumps(document).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"hub": hub}))
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


PRELUDE = """
import json, sys
from pathlib import Path
from headstart import WeightsSource
from headstart.errors import HeadstartError
from headstart.model.backbones.registry import at_hand, find_backbone, to_choose_from
from headstart.model.backbones.build import build
from headstart.model.backbones.hub import fetch

def told(call, *args, **kwargs):
    try:
        return {"found": str(call(*args, **kwargs))}
    except HeadstartError as error:
        return {"error": type(error).__name__, "text": str(error)}

def forbid_sockets():
    def hook(event, args):
        if event.split(".")[0] == "socket" and event != "socket.__new__":
            raise AssertionError(f"{event}{args}")
    sys.addaudithook(hook)
"""


def run(hub: Hub, code: str, tmp_path: Path, **environment: str) -> Any:
    """Run code in a fresh process whose hub is the small server; its `out` comes back. The cache is tmp_path / "hf"."""
    gone = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE")
    kept = {key: value for key, value in os.environ.items() if key.upper() not in gone}
    env = {
        **kept,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment,
    }
    program = PRELUDE + code + "\nprint(json.dumps(out))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
