"""What `headstart serve` does under load: `python benchmarks/serve.py RUN IMAGES [--only PART ...] --out FILE.json`.

    throughput   the upper bound (the same images decoded, resized and classified in this process, on all cores), and the
                 server with 1 to 32 callers that wait for their answers; in turn, medians, and ratios within a round
    peers        FastAPI + uvicorn + timm as in tutorials, and LitServe (benchmarks/peers/), with the same weights, images
                 and callers; in turn. Each with its defaults, and with a worker per core and one torch thread each
    half         random arrivals at half of the rate that the server can sustain: percentiles beside those of a lone caller,
                 and what HTTP and the queue add to decoding and network
    overload     ten times the rate that it can sustain, with --deadline 0.5: how many are still answered in time, how fast
                 the others are refused, memory, and how soon a lone caller is served as before
    slow         250 callers that send their headers or their body at a byte per second, or send requests and never read:
                 when the server hangs up, and what a good caller notices
    soak         --soak requests, one in eight bad (a truncated image, not an image, an unknown path, a caller that hangs
                 up): memory and open files after each tenth

The callers are benchmarks/load_generator.py, in a separate process on the same machine. They use some of its cores
(`callers' cores` in the output), which the server then lacks; so ratios to the bound are a little worse than with callers on
another machine. Nothing is pinned to cores. A run takes about 9 minutes on two idle cores; `--long` takes as long as for the
figures in LOG.md (an hour), which must be measured on an otherwise idle machine.

RUN is a run or, without `peers`, an export; peers need a run of one backbone with `--pooling last`, since timm opens it, and
`pip install '.[serve,bench]'`. IMAGES is a folder of images, at any depth. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import mimetypes
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from headstart.exporters.open_classifier import open_classifier
from headstart.images.image_refs import Images
from headstart.images.validate import cores
from headstart.io.files import json_bytes, write_bytes
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictor import Predictor

HERE = Path(__file__).parent
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CALLERS = (1, 2, 4, 8, 16, 32)
BUSY = 16
"""Number of callers at which a server has its highest throughput."""
TIMES = 10
WARM = 4
"""Index of the measurement in a soak (one before it, then one per tenth) from which caches and allocators are warm."""
KINDS = ("headers", "body", "deaf")

Figures = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How long to measure: the `seconds` of one measurement, the number of `rounds`, and the longer parts."""

    seconds: float = 3.0
    rounds: int = 3
    overload_seconds: float = 15.0
    slow_seconds: float = 25.0
    soak: int = 10_000


LONG = Scale(seconds=10.0, rounds=7, overload_seconds=60.0, slow_seconds=40.0, soak=100_000)


@dataclass(frozen=True)
class Bench:
    """What is measured: a run or an export, the image files, and for how long."""

    run: Path
    files: tuple[Path, ...]
    scale: Scale

    def requests(self, path: str = "/predict", **more: Any) -> list[Figures]:
        """Return a request per file."""
        kinds = [mimetypes.guess_type(file.name)[0] or "application/octet-stream" for file in self.files]
        return [
            {"path": path, "file": str(file), "type": kind, **more}
            for file, kind in zip(self.files, kinds, strict=True)
        ]


def main() -> None:
    """Parse the command line, measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN|EXPORT")
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--files", type=int, default=200, help="images to send, taken at random")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--soak", type=int, help="requests of the soak")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scale = LONG if options.long else Scale()
    bench = Bench(options.run, chosen_files(options.images, options.files), scale)
    found: Figures = {"cores": cores(), "files": len(bench.files), "scale": vars(scale), "load": os.getloadavg()[0]}
    for part in options.only:
        print(f"\n{part}", flush=True)
        found[part] = soak(bench, options.soak or scale.soak) if part == "soak" else PARTS[part](bench)
        if options.out:
            write_bytes(options.out, json_bytes(found))


def chosen_files(folder: Path, most: int) -> tuple[Path, ...]:
    """Return up to `most` image files below a folder, the same ones each time."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{folder}: no images; expected files ending in {', '.join(SUFFIXES)}")
    return tuple(files[i] for i in np.random.default_rng(0).permutation(len(files))[:most])


# Servers and callers


@dataclass(frozen=True)
class Server:
    """A running server: its address and process, and requests for it."""

    address: str
    process: psutil.Process
    requests: list[Figures]

    def usage(self) -> tuple[float, int]:
        """Return megabytes and open files, including child processes."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(p.memory_info().rss for p in family) / 1e6, sum(p.num_fds() for p in family)

    def ask(self, mode: str, **plan: Any) -> Figures:
        """Run callers with a plan; `per_second` in the result counts answers with status 200."""
        whole = {"address": self.address, "requests": self.requests, "mode": mode, **plan}
        command = [sys.executable, str(HERE / "load_generator.py")]
        done = subprocess.run(command, input=json.dumps(whole), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found: Figures = json.loads(done.stdout)
        good = found.get("codes", {}).get("200", {"n": 0})
        return found | {"good": good, "per_second": good["n"] / plan.get("seconds", found.get("seconds", 1.0))}


@contextlib.contextmanager
def served(bench: Bench, *options: str) -> Iterator[Server]:
    """Run `headstart serve`."""
    port = free_port()
    command = [sys.executable, "-m", "headstart", "serve", str(bench.run), "--port", str(port), *options]
    with running(command, port, "/readyz", bench.requests()) as server:
        yield server


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, ready: str, requests: list[Figures], **variables: str
) -> Iterator[Server]:
    """Run a server until the block ends; it is warm when the block begins."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, cwd=HERE / "peers", env={**os.environ, **variables})
        try:
            wait_until_ready(port, ready, child)
            server = Server(f"127.0.0.1:{port}", psutil.Process(child.pid), requests)
            server.ask("closed", callers=2, count=20)
            yield server
        except SystemExit:
            said.seek(0)
            print(said.read().decode(errors="replace")[-2_000:], file=sys.stderr)
            raise
        finally:
            stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it started."""
    family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    child.terminate()
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until_ready(port: int, path: str, child: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers 200."""
    for _ in range(1_200):
        if child.poll() is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{' '.join(map(str, child.args))}: is not ready")  # type: ignore[union-attr]


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Parts


def throughput(bench: Bench) -> Figures:
    """Measure the bound and the server, in turn."""
    in_process = bound(bench)
    rates: dict[str, list[float]] = {"bound": [], **{str(n): [] for n in CALLERS}}
    used = []
    with served(bench) as server:
        for _ in range(bench.scale.rounds):
            rates["bound"].append(in_process())
            for callers in CALLERS:
                asked = server.ask("closed", callers=callers, seconds=bench.scale.seconds)
                rates[str(callers)].append(asked["per_second"])
                used.append(asked["cpu_seconds"] / asked["seconds"])
    show("bound", f"{statistics.median(rates['bound']):7.0f} images/s")
    for callers in CALLERS:
        show(
            f"{callers} callers",
            f"{statistics.median(rates[str(callers)]):7.0f}   {ratio(rates, callers, 'bound'):.2f}",
        )
    show("callers' cores", f"{max(used):.2f}")
    return {"images_per_second": rates, "callers_cores": used}


def bound(bench: Bench) -> Callable[[], float]:
    """Return a function that measures images per second in this process: all files decoded, resized, classified, in a loop."""
    opened = open_classifier(bench.run)
    predictor = opened.predictor
    if isinstance(opened.classifier, Classifier):
        predictor = Predictor(opened.classifier, cache=False)
    images = Images.inspect([file.read_bytes() for file in bench.files])
    predictor.predict(images)

    def measure() -> float:
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < bench.scale.seconds:
            predictor.predict(images)
            count += len(images)
        return count / (time.perf_counter() - begun)

    return measure


def peers(bench: Bench) -> Figures:
    """Measure other servers, in turn."""
    forms, one_thread = bench.requests(form="file"), {"OMP_NUM_THREADS": "1"}
    run, ports = str(bench.run.resolve()), [free_port() for _ in range(4)]
    fastapi = [sys.executable, "-m", "uvicorn", "fastapi_server:app", "--log-level", "warning", "--port"]
    litserve = [sys.executable, "litserve_server.py", run]
    workers = str(cores())
    rates: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        servers = {
            "headstart": served(bench),
            "FastAPI": running([*fastapi, str(ports[0])], ports[0], "/health", forms, RUN=run),
            "FastAPI, workers": running(
                [*fastapi, str(ports[1]), "--workers", workers], ports[1], "/health", forms, RUN=run, **one_thread
            ),
            "LitServe": running([*litserve, str(ports[2]), "1"], ports[2], "/health", forms),
            "LitServe, workers": running([*litserve, str(ports[3]), workers], ports[3], "/health", forms, **one_thread),
        }
        entered = {name: stack.enter_context(server) for name, server in servers.items()}
        for turn in range(bench.scale.rounds):
            for name in rotated([*entered], turn):
                asked = entered[name].ask("closed", callers=BUSY, seconds=bench.scale.seconds)
                rates.setdefault(name, []).append(asked["good"]["n"] / asked["seconds"])
    for name in rates:
        show(
            name,
            f"{statistics.median(rates[name]):7.1f} images/s, headstart is {ratio(rates, 'headstart', name):.1f} times",
        )
    return {"images_per_second": rates}


def rotated(names: list[str], turn: int) -> list[str]:
    """Return the names, starting with a different one in each turn."""
    return names[turn % len(names) :] + names[: turn % len(names)]


def half(bench: Bench) -> Figures:
    """Measure half load, and what HTTP and the queue add."""
    seconds = bench.scale.seconds * 3
    with served(bench) as server:
        alone = server.ask("closed", callers=1, seconds=seconds)
        most = server.ask("closed", callers=BUSY, seconds=seconds)["per_second"]
        asked = server.ask("open", rate=most / 2, seconds=seconds * 2)
        added = seconds_added(server)
    p50 = alone["good"]["p50"]
    show("a lone caller", f"p50 {ms(p50)}, of which HTTP and the queue {ms(added)}")
    show(f"{most / 2:.0f} per second", f"{codes(asked)}; " + percentiles(asked["good"]))
    show("times the lone p50", "  ".join(f"{p} {asked['good'][p] / p50:.1f}" for p in ("p50", "p99", "p99.9")))
    show("callers", callers_own(asked))
    return {"alone": alone["good"], "capacity": most, "half": without_timeline(asked), "added_seconds": added}


def seconds_added(server: Server) -> float:
    """Return the median of the seconds that a lone caller waits in addition to decoding and network."""
    host, _, port = server.address.rpartition(":")
    connection, added = http.client.HTTPConnection(host, int(port)), []
    for asked in server.requests[:100]:
        body, begun = Path(asked["file"]).read_bytes(), time.perf_counter()
        connection.request("POST", "/v1/classify", body, {"Content-Type": asked["type"]})
        parts = json.loads(connection.getresponse().read())["seconds"]
        added.append(time.perf_counter() - begun - parts["decode"] - parts["network"])
    connection.close()
    return statistics.median(added)


def overload(bench: Bench) -> Figures:
    """Send ten times too many requests."""
    scale = bench.scale
    with served(bench, "--deadline", "0.5") as server:
        alone = server.ask("closed", callers=1, seconds=scale.seconds)["good"]["p50"]
        most = server.ask("closed", callers=BUSY, seconds=scale.seconds * 2)["per_second"]
        before = server.usage()
        with watched(server) as peak:
            asked = server.ask("open", rate=TIMES * most, seconds=scale.overload_seconds)
        after = server.ask("closed", callers=1, seconds=5.0)
    back = recovered(after["timeline"], alone)
    show(
        "can do", f"{most:.0f} per second; asked {TIMES * most:.0f} for {scale.overload_seconds:.0f} s: {codes(asked)}"
    )
    show(
        "answered in time", f"{asked['per_second']:.0f} per second, {asked['per_second'] / most:.2f} of what it can do"
    )
    show("200", percentiles(asked["good"]))
    show("503", percentiles(asked["codes"].get("503", {"n": 0})))
    show("memory", f"{before[0]:.0f} MB, at most {peak[0]:.0f} MB; open files {before[1]}, at most {peak[1]}")
    show("as before after", f"{'never' if back is None else f'{back:.1f} s'} (a lone caller; p50 {ms(alone)})")
    show("callers", callers_own(asked))
    found = {"alone_p50": alone, "capacity": most, "overload": without_timeline(asked), "recovered_seconds": back}
    return found | {"megabytes": [before[0], peak[0]], "open_files": [before[1], peak[1]]}


@contextlib.contextmanager
def watched(server: Server) -> Iterator[list[float]]:
    """Record the largest memory in megabytes and number of open files of a server while the block runs."""
    peak, ended = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            peak[:] = map(max, peak, server.usage())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def recovered(timeline: Sequence[Sequence[float]], p50: float) -> float | None:
    """Return the seconds until the median of a quarter of a second is below 1.5 times `p50`; None if it never is."""
    for step in range(1_000):
        inside = [seconds for at, seconds in timeline if step / 4 <= at < (step + 1) / 4]
        if inside and statistics.median(inside) <= 1.5 * p50:
            return step / 4
    return None


def slow(bench: Bench) -> Figures:
    """Run 250 slow callers, and a good one."""
    seconds, kinds = bench.scale.slow_seconds, {}
    with served(bench) as server:
        alone = server.ask("closed", callers=1, seconds=seconds / 2)["good"]
        files = server.usage()[1]

        def trouble(kind: str, callers: int) -> None:
            kinds[kind] = server.ask("slow", kind=kind, callers=callers, seconds=seconds)

        threads = [threading.Thread(target=trouble, args=args) for args in zip(KINDS, (84, 83, 83), strict=True)]
        for thread in threads:
            thread.start()
        beside = server.ask("closed", callers=1, seconds=seconds - 3)["good"]
        held = server.usage()[1] - files
        for thread in threads:
            thread.join()
        time.sleep(1.0)
        files_after = server.usage()[1]
    for kind in KINDS[:2]:
        each = kinds[kind]
        last = f", the last after {each['most']:.1f} s" if each["closed"] else ""
        show(kind, f"{each['closed']} of {each['callers']} closed by the server{last}; it said {each['said']}")
    show("deaf", f"after {seconds - 3:.0f} s, {max(0, held)} of the server's files are still open for them")
    show(
        "a good caller",
        f"p99 {ms(beside['p99'])}, without them {ms(alone['p99'])}: {beside['p99'] / alone['p99']:.2f} times",
    )
    show("open files", f"{files} before, {files_after} after")
    return {"kinds": kinds, "alone": alone, "beside": beside, "held": held, "open_files": [files, files_after]}


def soak(bench: Bench, count: int) -> Figures:
    """Send many requests, good and bad."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, served(bench) as server:
        mixed = Server(server.address, server.process, with_bad_ones(server.requests, Path(folder)))
        mixed.ask("closed", callers=BUSY, count=max(200, count // 10))
        rows.append((0, *server.usage()))
        for tenth in range(1, 11):
            asked = mixed.ask("closed", callers=BUSY, count=count // 10)
            rows.append((tenth * (count // 10), *server.usage()))
            show(f"{rows[-1][0]:,}", f"{rows[-1][1]:.1f} MB, {rows[-1][2]} open files; {codes(asked)}")
    warm = rows[WARM:]
    growth = float(np.polyfit([row[0] / 10_000 for row in warm], [row[1] for row in warm], 1)[0])
    show("growth", f"{growth:.2f} MB per 10,000 requests (a line through all but the first {WARM - 1} tenths)")
    return {"requests_megabytes_files": rows, "megabytes_per_10000": growth}


def with_bad_ones(requests: list[Figures], folder: Path) -> list[Figures]:
    """Return groups of seven good requests and a bad one."""
    cut, text = folder / "cut.jpg", folder / "text.jpg"
    cut.write_bytes(Path(requests[0]["file"]).read_bytes()[:600])
    text.write_bytes(b"no image")
    bad = [
        {"path": "/predict", "file": str(cut), "type": "image/jpeg"},
        {"path": "/predict", "file": str(text), "type": "image/jpeg"},
        {"path": "/no/such/path", "method": "GET"},
        {**requests[0], "leave": True},
    ]
    good = [{**each, "path": "/v1/classify"} if i % 2 else each for i, each in enumerate(requests)]
    mixed = []
    for i, each in enumerate(good):
        mixed += [each] if i % 7 else [bad[i // 7 % len(bad)], each]
    return mixed


PARTS: dict[str, Callable[..., Figures]] = {
    part.__name__: part for part in (throughput, peers, half, overload, slow, soak)
}


# What is printed


def show(name: str, text: str) -> None:
    """Print a row."""
    print(f"  {name:20s} {text}", flush=True)


def ms(seconds: float) -> str:
    """Format seconds as milliseconds."""
    return f"{seconds * 1e3:.1f} ms"


def percentiles(found: Figures) -> str:
    """Format p50, p99 and p99.9 for one status."""
    return ", ".join(f"{p} {ms(found[p])}" for p in ("p50", "p99", "p99.9")) if found["n"] else "none"


def codes(asked: Figures) -> str:
    """Format the number of requests with each status."""
    return ", ".join(f"{each['n']:,} x {code}" for code, each in asked["codes"].items())


def callers_own(asked: Figures) -> str:
    """Format the CPU that the callers used, and how late they were."""
    late = asked["late"]
    return f"{asked['cpu_seconds'] / asked['seconds']:.2f} cores; sent {ms(late['p50'])} late, p99 {ms(late['p99'])}"


def without_timeline(asked: Figures) -> Figures:
    """Return everything except the times of single answers."""
    return {key: value for key, value in asked.items() if key != "timeline"}


def ratio(rates: dict[str, list[float]], above: object, below: object) -> float:
    """Return the median over the rounds of the ratio of two rates."""
    return statistics.median(a / b for a, b in zip(rates[str(above)], rates[str(below)], strict=True) if b)


if __name__ == "__main__":
    main()
