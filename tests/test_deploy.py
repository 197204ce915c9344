"""The recipes in examples/deploy: read strictly, compared with the options and routes of the server, run where possible.

There is no Docker here: the lines of the Dockerfile are run one by one in a clean environment. systemd, nginx and Caddy check
their own files where they are installed.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest

import headstart
from conftest import PATIENCE, REPOSITORY
from headstart.images.worker_process import memory_share
from headstart.model.backbones.builtin import NAME
from headstart.serving.open_inference import TensorModel
from headstart.serving.openapi import openapi_document
from headstart.serving.server_options import ServerOptions
from headstart.training.recipe import Recipe

DEPLOY = REPOSITORY / "examples" / "deploy"
OPTIONS = {f.name.replace("_", "-"): f for f in fields(ServerOptions)}
DEFAULTS = ServerOptions()
ROUTES = openapi_document(TensorModel("run", "0", ("a", "b"), {"pixels": 8}), token=True, explain=False, max_body=1)[
    "paths"
]
SIZE = 450 << 20


def options_of(words: list[str]) -> dict[str, str]:
    """The options on a command line of `headstart serve`; all of them exist."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert {word.removeprefix("--") for word in given} <= set(OPTIONS), given
    return {word.removeprefix("--"): value for word, value in given.items()}


# Dockerfile

INSTRUCTIONS = ("FROM", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT")


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile; any that this reader does not know is an error."""
    found = []
    for line in (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            assert word in INSTRUCTIONS, line
            found.append((word, rest.strip()))
    return found


def only(word: str) -> str:
    """What the only instruction of that name says."""
    (found,) = (rest for name, rest in dockerfile() if name == word)
    return found


def entrypoint() -> list[str]:
    """The command that a container runs: no shell between it and the signals."""
    command: list[str] = json.loads(only("ENTRYPOINT"))
    return command


def test_the_image_is_slim_and_its_user_is_nobody() -> None:
    words = [word for word, _ in dockerfile()]
    assert words[0] == "FROM" and re.fullmatch(r"python:3\.1[1-9]-slim", only("FROM"))
    assert only("USER") == "10001:10001"
    assert words.index("RUN") < words.index("USER") < words.index("ENTRYPOINT")
    assert only("RUN") == "pip install --no-cache-dir --no-compile 'headstart[serve]'"
    assert (DEPLOY / ".dockerignore").read_text().split() == ["*", "!run"]
    assert only("COPY") == "run /model"


def test_the_container_starts_the_server_as_it_must_be_started() -> None:
    command = entrypoint()
    assert command[:3] == ["headstart", "serve", "/model"]
    options = options_of(command[3:])
    assert options == {"host": "0.0.0.0", "port": only("EXPOSE"), "token-file": "/run/secrets/headstart-token"}
    assert only("STOPSIGNAL") == "SIGTERM"


class Ready(http.server.BaseHTTPRequestHandler):
    """A server that says whether it is ready."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_the_health_check_asks_whether_the_server_is_ready() -> None:
    options, command = only("HEALTHCHECK").split(" CMD ")
    assert re.fullmatch(r"(--[a-z-]+=\d+s? ?)+", options)
    python, flag, code = json.loads(command)
    assert (python, flag) == ("python", "-c")
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", code)
    assert asked is not None and asked[1] == only("EXPOSE") and asked[2] == "/readyz"
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = code.replace(asked[1], str(server.server_port))
        environment = {
            **os.environ,
            "HTTP_PROXY": "http://127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
            "no_proxy": "",
        }
        for ready in (True, False):
            Ready.status = 200 if ready else 503
            done = subprocess.run([sys.executable, flag, code], env=environment, capture_output=True, timeout=PATIENCE)
            assert (done.returncode == 0) == ready, (
                done.stderr.decode()
            )  # though Docker may set a proxy in every container
        server.shutdown()


def test_the_lines_for_docker_name_what_the_file_has() -> None:
    said = " ".join(line.strip("# \\") for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line[:1] == "#")
    (command,) = re.findall(r"docker run (.*? classifier)\b", said)
    words = shlex.split(command.replace("$PWD", "/here"))
    assert "--read-only" in words and words[words.index("--tmpfs") + 1] == "/tmp"
    assert only("ENV").startswith("HEADSTART_CACHE=/tmp/")
    assert words[words.index("-p") + 1] == f"127.0.0.1:8000:{only('EXPOSE')}"
    assert words[words.index("-v") + 1] == f"/here/token:{options_of(entrypoint()[3:])['token-file']}:ro"
    assert int(words[words.index("--stop-timeout") + 1]) > DEFAULTS.drain


@pytest.fixture(scope="module")
def public_folder() -> Iterator[Path]:
    """A folder that any user may read."""
    folder = Path(tempfile.mkdtemp(prefix="headstart-deploy-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def model(public_folder: Path, photos: Path) -> Path:
    """A run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(public_folder / "made"))
        recipe = Recipe(approach="linear", backbone=NAME)
        headstart.train(photos, out=public_folder / "run", recipe=recipe, report=False)
    for path in [public_folder / "run", *(public_folder / "run").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return public_folder / "run"


@pytest.mark.slow
def test_the_dockerfile_line_by_line(public_folder: Path, model: Path, photos: Path) -> None:
    """In a new environment, as a user without rights or a home, with a folder to write to and none besides.

    Only root can become that user, and only where other users may enter the folders of Python and of temporary files.
    """
    python, becomes_nobody = public_python()
    becomes_nobody = becomes_nobody and is_open_to_all(public_folder)
    subprocess.run([python, "-m", "venv", str(public_folder / "venv")], check=True)
    place = {"/model": str(model), "/run/secrets/headstart-token": str(public_folder / "token")}
    token = "a-secret-of-some-length"
    (public_folder / "token").write_text(token)
    (public_folder / "token").chmod(0o644)
    (public_folder / "tmp").mkdir(mode=0o777)
    (public_folder / "tmp").chmod(0o777)
    path = f"{public_folder / 'venv' / 'bin'}:/usr/bin:/bin"
    settings = dict(pair.replace("/tmp", str(public_folder / "tmp")).split("=") for pair in only("ENV").split())
    run = only("RUN").replace("'headstart[serve]'", f"'{REPOSITORY}[serve]'")
    subprocess.run(["sh", "-ec", run], env={**os.environ, "PATH": path, "PYTHONPATH": ""}, check=True, timeout=PATIENCE)

    freeze = subprocess.run(["pip", "freeze"], env={"PATH": path}, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"^(torch|timm|onnx|scikit|scipy|matplotlib|pandas|fastapi|uvicorn)\b", freeze, re.MULTILINE)
    files = (file for file in (public_folder / "venv").rglob("*") if file.is_file() and not file.is_symlink())
    size = sum(file.stat().st_size for file in files)
    print(f"installed: {size / 1e6:.0f} MB")
    assert size < SIZE

    port = free_port()
    words = [str(port) if word == only("EXPOSE") else place.get(word, word) for word in entrypoint()]
    words[0] = str(public_folder / "venv" / "bin" / "headstart")
    nobody: dict[str, Any] = {"user": 10001, "group": 10001, "extra_groups": []} if becomes_nobody else {}
    environment = {"PATH": path, **settings}
    with subprocess.Popen(words, env=environment, cwd="/", stdout=subprocess.DEVNULL, **nobody) as server:
        try:
            check = json.loads(only("HEALTHCHECK").split(" CMD ")[1].replace(only("EXPOSE"), str(port)))
            wait_until_healthy(check, environment, server)
            image = next((photos / "class1").iterdir()).read_bytes()
            assert ask(port, image, token)[0]["label"] == "class1"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(port, image, "another-secret-entirely")
        finally:
            server.terminate()
        assert server.wait(PATIENCE) == 0
    outside = [file for file in public_folder.rglob("*") if file.is_file() and file.stat().st_uid == 10001]
    assert all(public_folder / "tmp" in file.parents for file in outside)


def public_python() -> tuple[str, bool]:
    """A Python for the environment, and whether another user can run it."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.geteuid() == 0 and is_open_to_all(Path(python).resolve()) and is_new_enough(python):
            return python, True
    return sys.executable, False


def is_open_to_all(path: Path) -> bool:
    """Whether every user may enter the folders above."""
    return path.exists() and all(folder.stat().st_mode & 0o001 for folder in path.parents)


def is_new_enough(python: str) -> bool:
    """Whether headstart runs with a Python that can make environments."""
    code = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def ask(port: int, image: bytes, token: str) -> Any:
    """What the server says of an image."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", image, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def wait_until_healthy(check: list[str], environment: dict[str, str], server: subprocess.Popen[bytes]) -> None:
    """Run the health check until it succeeds."""
    end = time.monotonic() + PATIENCE
    while subprocess.run(check, env=environment, capture_output=True).returncode:
        assert server.poll() is None and time.monotonic() < end
        time.sleep(0.2)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# systemd


def unit() -> dict[str, list[str]]:
    """The settings of the unit, whatever their section."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "headstart.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_service_starts_the_server_with_options_that_exist_and_lets_it_drain() -> None:
    (command,) = unit()["ExecStart"]
    words = command.split()
    assert words[0].endswith("/bin/headstart") and words[1] == "serve" and words[2].startswith("/")
    options = options_of(words[3:])
    assert options["token-file"] == "${CREDENTIALS_DIRECTORY}/token" and unit()["LoadCredential"][0].startswith(
        "token:"
    )
    assert float(unit()["TimeoutStopSec"][0]) > DEFAULTS.drain
    assert unit()["Environment"] == [f"HEADSTART_CACHE=/var/cache/{unit()['CacheDirectory'][0]}"]
    assert "MemoryDenyWriteExecute" not in unit()


def bytes_of(size: str) -> int:
    """A size as systemd, Kubernetes and Docker write it."""
    number, unit = re.fullmatch(r"(\d+)([KMG])I?", size.upper()).groups()  # type: ignore[union-attr]
    return int(number) << {"K": 10, "M": 20, "G": 30}[unit]


def test_the_decoders_of_each_recipe_share_its_memory() -> None:
    """512 MiB each, whatever the number of cores; the system ends one process at most, not the service."""
    service = options_of(unit()["ExecStart"][0].split()[3:])
    (container,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    said = (DEPLOY / "Dockerfile").read_text()
    (docker,) = re.findall(r"--memory (\w+) --cpus (\d+) .*--decoders \2\n", said.replace("\\\n#", ""))
    limits = {
        "systemd": (service["decoders"], unit()["MemoryMax"][0]),
        "kubernetes": (options_of(container["args"])["decoders"], container["resources"]["limits"]["memory"]),
        "docker": (docker[1], docker[0]),
    }
    for name, (decoders, limit) in limits.items():
        assert memory_share(int(decoders), bytes_of(limit)) == 512 << 20, name
    assert unit()["OOMPolicy"] == ["continue"]


def test_systemd_itself_accepts_the_service(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, which is not installed")
    file = tmp_path / "headstart.service"
    file.write_text((DEPLOY / "headstart.service").read_text().replace("/opt/headstart/bin/headstart", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=PATIENCE)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "headstart.service" in line]
    assert done.returncode == 0 and said == []


def allowed(group: str) -> set[str]:
    """The system calls in a group of systemd's."""
    command = ["systemd-analyze", "syscall-filter", group]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    words = [line.strip() for line in said.splitlines() if not line.strip().startswith("#")]
    inner = [allowed(word) for word in words if word.startswith("@") and word != group]
    return {word for word in words if not word.startswith("@")}.union(*inner)


@pytest.mark.slow
def test_the_server_calls_nothing_that_the_service_forbids_and_connects_to_nobody(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    """Every system call from the first import to the end, with an image that is answered and one that is not."""
    if shutil.which("systemd-analyze") is None or shutil.which("strace") is None:
        pytest.skip("needs systemd-analyze and strace, which are not installed")
    port = free_port()
    strace = ["strace", "-f", "-qq", "-o", str(tmp_path / "calls"), sys.executable, "-m", "headstart"]
    command = [*strace, "serve", str(model), "--port", str(port), "--deadline", "300"]
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as traced:
        ready = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/readyz', timeout=9)"
        wait_until_healthy([sys.executable, "-c", ready], environment, traced)
        image = next((photos / "class1").iterdir()).read_bytes()
        assert ask(port, image, "none")[0]["label"] == "class1"
        with pytest.raises(urllib.error.HTTPError, match="422"):
            ask(port, image[:300], "none")
        (server,) = psutil.Process(traced.pid).children()
        server.terminate()
        assert traced.wait(PATIENCE) == 0
    calls = (tmp_path / "calls").read_text(encoding="utf-8", errors="replace")
    (group,) = unit()["SystemCallFilter"]
    assert set(re.findall(r"^\d+ +([a-z]\w*)\(", calls, re.MULTILINE)) - allowed(group) == set()
    assert not re.search(r"connect\(.*AF_INET", calls)


# Kubernetes


def manifests() -> dict[str, Any]:
    """The manifests by kind."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which is not installed")
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert all(each["metadata"]["name"] == "classifier" for each in documents)
    return {each["kind"]: each for each in documents}


def test_probes_ask_routes_of_the_server_and_ports_are_those_of_the_image() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    for probe in probes.values():
        assert probe["path"] in ROUTES and ROUTES[probe["path"]]["get"]["security"] == []
        assert probe["port"] == "http"
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": int(only("EXPOSE"))}
    (service,) = manifests()["Service"]["spec"]["ports"]
    assert service["targetPort"] == "http"


def test_a_pod_has_no_rights_and_ends_after_its_last_answer() -> None:
    deployment = manifests()["Deployment"]["spec"]["template"]
    pod, (container,) = deployment["spec"], deployment["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == only("USER")
    assert pod["terminationGracePeriodSeconds"] > DEFAULTS.drain + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    options = options_of(container["args"])
    assert options["decoders"] == container["resources"]["limits"]["cpu"]
    service = manifests()["Service"]["metadata"]["name"]
    within = ["", ".default", ".default.svc", ".default.svc.cluster.local"]
    assert options["allow-host"].split(",")[:4] == [f"{service}{suffix}" for suffix in within]
    ServerOptions(allow_host=options["allow-host"]).check()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    token = options_of(entrypoint()[3:])["token-file"]
    assert mounts == {"tmp": "/tmp", "token": str(Path(token).parent)}
    assert f"--from-file={Path(token).name}=" in (DEPLOY / "kubernetes.yaml").read_text()


# Reverse proxies


def header_milliseconds() -> int:
    """For how long the server waits for the headers of a request, the next one on a connection included."""
    source = (REPOSITORY / "src" / "headstart" / "serving" / "server.py").read_text()
    (found,) = re.findall(r"^HEADER_MILLISECONDS = ([\d_]+)$", source, re.MULTILINE)
    return int(found)


def test_proxies_have_the_servers_own_limits() -> None:
    caddy, nginx = ((DEPLOY / name).read_text() for name in ("Caddyfile", "nginx.conf"))
    limits, idle = (f"{DEFAULTS.max_body:g}", f"{DEFAULTS.receive:g}s"), header_milliseconds()
    assert re.findall(r"max_size (\d+)MB|read_body (\w+)", caddy) == [("", limits[1]), (limits[0], "")]
    assert re.findall(r"client_max_body_size (\d+)m;", nginx) == [limits[0]]
    assert re.findall(r"client_body_timeout (\w+);", nginx) == [limits[1]]
    for text in (caddy, nginx):
        assert f"127.0.0.1:{DEFAULTS.port}" in text and "/metrics" in text
        assert "Host $host;" not in text  # without the port, which the Origin of a page has
        assert text.count("{") == text.count("}")
        (kept,) = re.findall(r"keepalive(?:_timeout)? (\d+)s", text)
        assert int(kept) * 1_000 < idle


def test_nginx_accepts_its_file(tmp_path: Path) -> None:
    """nginx itself, or a strict reader of its files."""
    whole = f"events {{}}\nhttp {{ include {DEPLOY / 'nginx.conf'}; }}\n"
    (tmp_path / "nginx.conf").write_text(whole)
    if shutil.which("nginx"):
        inside = (DEPLOY / "nginx.conf").read_text().replace("listen 443 ssl", "listen 8443")
        inside = re.sub(r".*(ssl_|listen \[).*\n", "", inside)
        (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{ {inside} }}\n")
        command = ["nginx", "-t", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]
        assert subprocess.run(command, capture_output=True).returncode == 0
        return
    crossplane = pytest.importorskip("crossplane", reason="needs nginx or crossplane, which are not installed")
    read = crossplane.parse(str(tmp_path / "nginx.conf"), strict=True, check_ctx=True, check_args=True)
    assert read["status"] == "ok", read["errors"]


def test_caddy_accepts_its_file() -> None:
    if shutil.which("caddy") is None:
        pytest.skip("needs caddy, which is not installed")
    command = ["caddy", "adapt", "--config", str(DEPLOY / "Caddyfile"), "--validate"]
    assert subprocess.run(command, capture_output=True).returncode == 0
