"""Killed, interrupted, out of disk, not allowed, two at once: what is on disk afterwards is the old state or the new one.

As SQLite tests itself (https://www.sqlite.org/testing.html, sections 3.1 and 3.2): the N-th call that writes fails, or
the process dies at it, for N = 1, 2, ... until the work gets through. The default run samples; `-m slow` does all.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from conftest import PATIENCE
from headstart import Recipe
from headstart.errors import WriteError
from headstart.io import files
from headstart.io.files import create_file, write_bytes, write_pieces, write_text
from headstart.io.folders import check_manifest, folder_aside
from headstart.runs.run_folder import load_classifier

HEADSTART = (sys.executable, "-m", "headstart")
RECIPE = ("--backbone", "test_resnet.a+test_efficientnet.b")
LINEAR = Recipe(approach="linear", backbone="test_resnet.a")


# ------------------------------------------------------------------------------------------------- what a verb leaves
def embedded(out: Path) -> dict[str, str]:
    """The features, and the table beside them, to the byte."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (out, out.with_suffix(".csv"))}


def trained(run: Path) -> dict[str, Any]:
    """All numbers of a run, the seconds that steps took left out; the run is checked against its manifest."""
    check_manifest(run)
    metrics = json.loads((run / "metrics.json").read_text())
    known = json.loads((run / "headstart.json").read_text())
    return {
        "metrics": {k: v for k, v in metrics.items() if k != "seconds"},
        "calibration": known["calibration"],
        "id": known["id"],
        "tables": [(run / name).read_text() for name in ("predictions.csv", "split.csv", "checks.csv")],
        "weights": [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run.rglob("*.safetensors"))],
    }


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "HEADSTART_CACHE": str(cache)}


def words_for(verb: str, out: Path, photos: Path, tiny_weights: Path) -> list[str]:
    backbone = RECIPE if verb == "train" else ("--backbone", "test_resnet.a")
    return [*HEADSTART, verb, str(photos), "--out", str(out), "--weights-dir", str(tiny_weights), *backbone]


def finished(words: Sequence[str], cache: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(cache), capture_output=True, text=True, timeout=PATIENCE, **options)


def asides(*folders: Path) -> list[Path]:
    return [p for folder in folders for p in folder.rglob("*.part")]


# ---------------------------------------------------------------------------------------------------------- kill -9
KINDS = {"embed": ("features.safetensors", embedded), "train": ("run", trained)}


def forget(cache: Path, rng: np.random.Generator, graphs: bool) -> None:
    """Remove a random half of what is kept, so that there is work to be killed in."""
    kept = sorted(p for p in cache.rglob("*") if p.is_file() and (graphs or "graphs" not in p.parts))
    for path in kept:
        if rng.random() < 0.5:
            path.unlink()


def killed_at_random(
    verb: str,
    kills: int,
    seed: int,
    tmp_path: Path,
    start: Path,
    photos: Path,
    tiny_weights: Path,
    graphs: bool = False,
) -> None:
    name, numbers = KINDS[verb]
    fresh, cache = tmp_path / "fresh", tmp_path / "cache"
    undisturbed = words_for(verb, tmp_path / "undisturbed" / name, photos, tiny_weights)
    shutil.copytree(start, cache)
    seconds = []
    for _ in range(2):  # the first warms the operating system's own caches
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(start, fresh)
        begun = time.monotonic()
        assert finished(undisturbed, fresh).returncode == 0
        seconds.append(time.monotonic() - begun)
    expected = numbers(tmp_path / "undisturbed" / name)

    rng = np.random.default_rng(seed)
    out = tmp_path / "killed" / name
    died, started, longest = 0, 0, min(seconds)
    while died < kills:  # those that were faster than the kill do not count
        started += 1
        assert started <= 4 * kills + 10
        process = subprocess.Popen(
            words_for(verb, out, photos, tiny_weights),
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait = rng.uniform(0, longest)
        time.sleep(wait)
        with suppress(ProcessLookupError):  # it was faster
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            died += 1
        else:  # the machine has less to do now
            longest = wait
        if out.exists() and (verb == "train" or out.with_suffix(".csv").exists()):
            assert numbers(out) == expected
        forget(cache, rng, graphs)
    last = finished(words_for(verb, out, photos, tiny_weights), cache)
    assert last.returncode == 0, last.stderr
    assert numbers(out) == expected
    for path in asides(tmp_path):
        for each in (path, *path.rglob("*")):
            os.utime(each, (0, 0))
    shutil.rmtree(cache / "features")
    assert finished(words_for(verb, out, photos, tiny_weights), cache).returncode == 0
    assert numbers(out) == expected
    assert asides(out.parent, cache / "features") == []  # what the killed ones left aside is removed, once it is old


@pytest.mark.parametrize("verb", [pytest.param("embed", marks=pytest.mark.slow), "train"])
def test_killed_a_few_times_the_next_run_gives_the_same_numbers(
    verb: str, tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path
) -> None:
    killed_at_random(verb, 3, 20260101, tmp_path, warm_cache, photos, tiny_weights)


@pytest.mark.slow
@pytest.mark.parametrize("verb", KINDS)
def test_killed_44_times_the_next_run_gives_the_same_numbers(
    verb: str, tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path
) -> None:
    killed_at_random(verb, 44, 20260102, tmp_path, warm_cache, photos, tiny_weights)


@pytest.mark.slow
@pytest.mark.parametrize("verb", KINDS)
def test_killed_6_times_while_networks_are_compiled_too(
    verb: str, tmp_path: Path, photos: Path, tiny_weights: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    killed_at_random(verb, 6, 20260103, tmp_path, empty, photos, tiny_weights, graphs=True)


DIES = """
import os, signal, sys, threading
left, lock = int(sys.argv.pop(1)), threading.Lock()

def counted(real, counts):
    def call(*args, **options):
        global left
        with lock:
            left -= counts(args)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    return call

for name in ("write", "fsync", "replace", "mkdir", "rename", "open"):
    counts = (lambda args: bool(args[1] & (os.O_WRONLY | os.O_RDWR))) if name == "open" else (lambda args: True)
    setattr(os, name, counted(getattr(os, name), counts))
from headstart.cli import main
main(sys.argv[1:])
"""


def killed_at_call(verb: str, n: int, tmp_path: Path, start: Path, photos: Path, tiny_weights: Path) -> bool:
    """Have the process die as it makes its n-th call that writes. False if it made fewer."""
    cache, out = tmp_path / "cache", tmp_path / "out" / KINDS[verb][0]
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(start, cache)
    words = words_for(verb, out, photos, tiny_weights)
    ended = finished([sys.executable, "-c", DIES, str(n), *words[len(HEADSTART) :]], cache)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    if verb == "train":
        for run in (p for p in (out, out.with_name("run.previous")) if p.exists()):
            check_manifest(run)
    return ended.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("verb", KINDS)
def test_killed_at_every_call_that_writes(
    verb: str, tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path
) -> None:
    name, numbers = KINDS[verb]
    n = 1
    while killed_at_call(verb, n, tmp_path, warm_cache, photos, tiny_weights):
        n += 1 if verb == "embed" else 3
    expected = numbers(tmp_path / "out" / name)
    for at in (2, 4, 6, n - 1, n - 3):  # and the cache that such a death leaves is good
        killed_at_call(verb, at, tmp_path, warm_cache, photos, tiny_weights)
        last = finished(words_for(verb, tmp_path / "out" / name, photos, tiny_weights), tmp_path / "cache")
        assert last.returncode == 0, last.stderr
        assert numbers(tmp_path / "out" / name) == expected
    assert n > 10


# ------------------------------------------------------------------------------------------- the N-th call fails
class Faults:
    """While open, the n-th call of the operating system that writes fails, and all later ones go through."""

    def __init__(self, n: int, code: int) -> None:
        self.n, self.code, self.calls, self.failed = n, code, 0, ""
        self._lock = threading.Lock()
        self._paths: dict[Any, Any] = {}

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self._writes(name, args):
                with self._lock:
                    self.calls += 1
                    if self.calls == self.n:
                        self.failed = f"{name} {self._paths.get(args[0], args[0])}"
                        named = (str(args[0]),) if isinstance(args[0], str | os.PathLike) else ()
                        raise OSError(self.code, os.strerror(self.code), *named)
            result = real(*args, **options)
            if name == "open":
                self._paths[result] = args[0]
            return result

        return call

    @staticmethod
    def _writes(name: str, args: Sequence[Any]) -> bool:
        if name == "open":
            return bool(args[1] & (os.O_WRONLY | os.O_RDWR))
        return name != "mkdir" or not Path(args[0]).is_dir()

    @contextmanager
    def injected(self) -> Iterator[None]:
        names = ("write", "fsync", "replace", "mkdir", "open")
        reals = {name: getattr(os, name) for name in names}
        for name, real in reals.items():
            setattr(os, name, self._guarded(name, real))
        try:
            yield
        finally:
            for name, real in reals.items():
                setattr(os, name, real)


class Bench:
    """A folder with an earlier run, a cache, and a verb's earlier output, which the verb is about to replace."""

    def __init__(self, tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path, model: Path) -> None:
        self.photos, self.weights = photos, tiny_weights
        self.root, self.cache = tmp_path, Path(os.environ["HEADSTART_CACHE"])
        shutil.copytree(warm_cache, self.cache, dirs_exist_ok=True)
        self.out = tmp_path / "out"
        self.out.mkdir()
        self.model = shutil.copytree(model, tmp_path / "model")
        self.answer = self.predicted()

    def forget(self) -> None:
        """Features and facts are computed, and written, each time; compiled networks stay."""
        for part in ("features", "facts", "origins"):
            shutil.rmtree(self.cache / part, ignore_errors=True)

    def predicted(self) -> list[float]:
        said = headstart.predict(self.model, self.photos / "class0" / "000.jpg")
        return [float(x) for x in said.predictions.logits[0]]

    def run(self, verb: str) -> None:
        if verb == "train":
            recipe = Recipe(backbone="test_resnet.a+test_efficientnet.b")
            headstart.train(self.photos, out=self.out / "run", weights=self.weights, recipe=recipe)
        elif verb == "embed":
            headstart.embed(self.photos, out=self.out / "f.safetensors", weights=self.weights)
        elif verb == "predict":
            headstart.predict(self.model, self.photos / "class1", out=self.out / "p.csv")
        elif verb == "evaluate":
            headstart.evaluate(self.model, self.photos, out=self.out / "evaluation")
        elif verb == "split":
            headstart.split(self.photos, out=self.out / "split.csv")
        else:
            headstart.check(self.photos, out=self.out / "checks.csv")

    def state(self) -> dict[str, object]:
        """What stands in the output folder: each file to the byte, each run or evaluation as one thing."""
        return {p.name: self._content(p) for p in self.out.iterdir()}

    def _content(self, path: Path) -> object:
        if path.is_file():
            return path.read_bytes()
        check_manifest(path)
        known = path / "headstart.json"
        return json.loads(known.read_text())["id"] if known.exists() else (path / "metrics.json").read_bytes()


VERBS = ("train", "embed", "predict", "evaluate", "split", "check")
OLD = b"path,label,sha256\nold"  # what an earlier file holds: embed replaces no table but its own


def with_faults(bench: Bench, verb: str, numbers: Sequence[int]) -> int:
    """Let the n-th call fail for each n, and judge what is left. The number of calls that the verb makes in all."""
    bench.run(verb)
    new = bench.state()
    old = {name: (content, OLD if isinstance(content, bytes) else None) for name, content in new.items()}
    for n in numbers:
        code = errno.ENOSPC if n % 2 else errno.EIO
        for path in bench.out.iterdir():
            if path.is_file():
                path.write_bytes(OLD)
        bench.forget()
        faults = Faults(n, code)
        try:
            with faults.injected():
                bench.run(verb)
        except WriteError as error:
            assert os.strerror(code) in error.message
            assert error.hint
            assert ".part" not in str(error)
            assert str(bench.root.parent) in error.message or str(bench.cache) in error.message
        else:
            # What was learnt about images may be lost with a warning; nothing else may.
            assert not faults.failed or "/facts" in faults.failed, (n, faults.failed)
        assert asides(bench.root, bench.cache) == [], faults.failed
        for name, content in bench.state().items():
            assert name.endswith(".previous") or content in old[name], (n, faults.failed, name)
        assert set(bench.state()) >= set(new), (n, faults.failed)
        assert bench.predicted() == bench.answer
        if faults.calls < n:
            break
    bench.run(verb)  # and the cache that the failures have left gives the same
    assert {k: v for k, v in bench.state().items() if k in new} == new
    return faults.calls


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, warm_cache: Path, photos: Path, tiny_weights: Path) -> Path:
    """A run folder. Shared: copy it before writing."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(warm_cache, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        headstart.train(photos, out=folder / "run", weights=tiny_weights, recipe=LINEAR, report=False)
    return folder / "run"


@pytest.fixture
def bench(tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path, model: Path) -> Bench:
    return Bench(tmp_path, warm_cache, photos, tiny_weights, model)


SAMPLES = {
    "train": (7, 45),
    "embed": (1, 4, 9, 15),
    "predict": (2, 11),
    "evaluate": (8, 18),
    "split": (3, 9),
    "check": (6, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_failing_disk_is_a_clean_error_that_leaves_the_old_state(verb: str, bench: Bench) -> None:
    with_faults(bench, verb, SAMPLES[verb])


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_each_call_that_can_fail_fails_once(verb: str, bench: Bench) -> None:
    calls = with_faults(bench, verb, range(1, 500))
    assert 8 <= calls < 499, "the loop ends where the verb gets through"


def test_a_second_previous_run_is_kept_until_the_new_one_stands(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run, previous = bench.out / "run", bench.out / "run.previous"
    bench.run("train")
    shutil.copytree(bench.model, previous)
    ids = [load_classifier(p).id for p in (run, previous)]
    real = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == run:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WriteError, match="Input/output error"):
        bench.run("train")
    monkeypatch.undo()
    assert [load_classifier(p).id for p in (run, previous)] == ids
    assert sorted(p.name for p in bench.out.iterdir()) == ["run", "run.previous"]


# ------------------------------------------------------------------------------------------------------- leftovers
@pytest.mark.parametrize("write", [write_bytes, create_file])
def test_what_killed_processes_left_aside_is_removed_when_it_is_old(
    write: Callable[[Path, bytes], object], tmp_path: Path
) -> None:
    name = "0123456789abcdef" * 2
    old, young = tmp_path / f".a.csv.{name}.part", tmp_path / f".b.csv.{name}.part"
    folder, others = tmp_path / f".run.{name}.part", tmp_path / ".mine.part"
    for path in (old, young, others):
        path.write_text("x")
    (folder / "inner").mkdir(parents=True)
    for path in (old, folder / "inner", folder, others):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    write(tmp_path / "c.csv", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([young.name, ".mine.part", "c.csv"])


def test_a_folder_that_is_still_being_filled_is_not_removed(tmp_path: Path) -> None:
    """Its own time is that of its last direct entry, however long a subfolder is filled."""
    with folder_aside(tmp_path / "into", fresh=True) as aside:
        write_pieces(aside / "deep" / "inner" / "1.jpg", [b"1"])
        for path in (aside / "deep" / "inner", aside / "deep", aside):
            os.utime(path, (time.time() - 7200, time.time() - 7200))
        write_bytes(tmp_path / "c.csv", b"")
        write_pieces(aside / "deep" / "inner" / "2.jpg", [b"2"])
    assert sorted(p.name for p in (tmp_path / "into" / "deep" / "inner").iterdir()) == ["1.jpg", "2.jpg"]


def test_a_link_is_written_through_and_a_device_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    write_bytes(tmp_path / "link.csv", b"x")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_bytes() == b"x"
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(WriteError, match=r"expected the name of a file to write\.\n  Give a file name"):
            write_bytes(place, b"x")


def test_long_and_odd_names_can_be_written(tmp_path: Path) -> None:
    for name in ("ü" * 120, "x" * 255, "-a b\n'\".csv", os.fsdecode(b"\xff.json")):
        files.write_json(tmp_path / name, {"name": name})
        assert files.read_json(tmp_path / name) == {"name": name}


# ----------------------------------------------------------------------------------------------------- two at once
@pytest.mark.parametrize("times", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_two_processes_that_embed_the_same_images_share_a_cache(
    times: int, tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path
) -> None:
    seen = []
    for i in range(times):
        cache = tmp_path / f"cache{i}"
        shutil.copytree(warm_cache, cache)
        shutil.rmtree(cache / "facts")
        outs = [tmp_path / f"{i}{side}" / "f.safetensors" for side in "ab"]
        both = [
            subprocess.Popen(words_for("embed", o, photos, tiny_weights), env=environment(cache), stdout=-1)
            for o in outs
        ]
        assert [p.wait() for p in both] == [0, 0]
        third = tmp_path / f"{i}c" / "f.safetensors"
        assert finished(words_for("embed", third, photos, tiny_weights), cache).returncode == 0
        seen += [embedded(o) for o in (*outs, third)]
        assert asides(cache) == []
    assert all(s == seen[0] for s in seen)


@pytest.mark.slow
def test_one_process_embeds_while_another_trains(
    tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path
) -> None:
    words = {verb: words_for(verb, tmp_path / KINDS[verb][0], photos, tiny_weights) for verb in KINDS}
    alone = {verb: words_for(verb, tmp_path / "alone" / KINDS[verb][0], photos, tiny_weights) for verb in KINDS}
    cache, own = tmp_path / "cache", tmp_path / "own"
    shutil.copytree(warm_cache, cache)
    shutil.copytree(warm_cache, own)
    both = [subprocess.Popen(w, env=environment(cache), stdout=-1, stderr=-1) for w in words.values()]
    assert [len(p.communicate()[1]) * 0 + p.returncode for p in both] == [0, 0]
    for verb, (name, numbers) in KINDS.items():
        assert finished(alone[verb], own).returncode == 0
        assert numbers(tmp_path / name) == numbers(tmp_path / "alone" / name)


# --------------------------------------------------------------------------------------------- a disk that is full
def clean_error(ended: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 1, one `WriteError` with these parts, and no traceback."""
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    message = ended.stderr[ended.stderr.index("WriteError: ") :]
    for part in parts:
        assert part in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs root, and leave to mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(warm_cache, cache)
    train = words_for("train", small_disk / "run", photos, tiny_weights)
    ended = finished(train, cache)
    clean_error(ended, f"{small_disk}/run/", "No space left on device", "free some space, or choose another folder")
    assert list(small_disk.iterdir()) == []
    (small_disk / "cache").mkdir()
    (small_disk / "cache" / "graphs").symlink_to(cache / "graphs")
    (small_disk / "filler").write_bytes(bytes(48_000))
    embed = words_for("embed", tmp_path / "f.safetensors", photos, tiny_weights)
    ended = finished(embed, small_disk / "cache")
    clean_error(ended, "No space left on device", "HEADSTART_CACHE=DIR moves the cache elsewhere.")
    assert not (tmp_path / "f.safetensors").exists()
    assert asides(small_disk) == []
    ended = finished(words_for("train", small_disk, photos, tiny_weights), cache)
    clean_error(ended, "is a mount point", f"--out {small_disk}/run")
    assert finished(embed, cache).returncode == 0


def test_a_limit_on_file_sizes_is_a_clean_error(
    tmp_path: Path, warm_cache: Path, photos: Path, tiny_weights: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(warm_cache, cache)
    words = words_for("train", tmp_path / "out" / "run", photos, tiny_weights)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    ended = finished(words, cache, preexec_fn=limit)
    clean_error(ended, "model.safetensors: could not be written: File too large.", "ulimit -f")
    assert list((tmp_path / "out").iterdir()) == []
    assert finished(words, cache).returncode == 0


# ------------------------------------------------------------------------------------------------------ permissions
def without_override() -> None:
    """Give up root's leave to write everywhere (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH), in a child before it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):
        if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def read_only(
    tmp_path: Path, photos: Path, tiny_weights: Path, warm_cache: Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder that may only be read, with photos, weights and a cache; and how to start a process that it binds."""
    root = tmp_path / "read-only"
    for source, name in ((photos, "photos"), (tiny_weights, "weights"), (warm_cache, "cache")):
        shutil.copytree(source, root / name)
    everything = [root, *root.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    options = {"preexec_fn": without_override} if os.geteuid() == 0 else {}
    try:
        probe = finished(
            [sys.executable, "-c", f"import os; print(os.access({str(root)!r}, os.W_OK))"], root, **options
        )
        if probe.stdout.strip() != "False":
            pytest.skip("needs a folder that may not be written to, which this system does not give")
        yield root, options
    finally:
        for path in everything:
            path.chmod(0o755)


def test_no_leave_to_write(read_only: tuple[Path, dict[str, Any]]) -> None:
    root, options = read_only
    words = words_for("train", root / "run", root / "photos", root / "weights")
    ended = finished(words, root / "cache", **options)
    clean_error(ended, f"{root}/run: could not be written: Permission denied ({root}).", "choose another folder")
    assert "Leave-one-out" not in ended.stderr  # asked before the work, not after
    for verb, extra in (("split", []), ("check", [])):
        words = [*HEADSTART, verb, str(root / "photos"), *extra, "--out", str(root / "x.csv")]
        clean_error(
            finished(words, root / "cache", **options), f"{root}/x.csv: could not be written: Permission denied"
        )


def test_a_cache_that_may_not_be_written_costs_a_warning(read_only: tuple[Path, dict[str, Any]]) -> None:
    root, options = read_only
    words = [*HEADSTART, "embed", str(root / "photos"), "--weights-dir", str(root / "weights")]
    ended = finished([*words, "--backbone", "test_resnet.a"], root / "cache", **options)
    assert ended.returncode == 0, ended.stderr
    assert "42 images x" in ended.stdout
    assert ended.stderr.count("Results are not cached: ") == 1
    assert "HEADSTART_CACHE=DIR moves the cache elsewhere." in ended.stderr


def test_what_was_trained_for_hours_is_not_lost_to_a_cache_that_may_not_be_written(
    read_only: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, options = read_only
    room = tmp_path / "temporary"
    room.mkdir()
    words = [*HEADSTART, "train", str(root / "photos"), "--out", str(tmp_path / "run"), "--no-report"]
    words += ["--weights-dir", str(root / "weights"), "--backbone", "test_resnet.a", "--approach", "finetune"]
    ended = subprocess.run(
        [*words, "--epochs", "1", "--unfreeze", "all"],
        env={**environment(root / "cache"), "TMPDIR": str(room)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )
    assert ended.returncode == 0, ended.stderr
    assert f"could not be written: Permission denied ({root}/cache). It is written to {room}/headstart-" in ended.stderr
    assert headstart.load_classifier(tmp_path / "run").members[0].extractor.backbone.trained_here
    assert list(room.iterdir()) == []


# ------------------------------------------------------------------------------------------------- what is in the way
OTHERS = "contains files that headstart did not write"
UNCLEAR = "its manifest.json is damaged, or was not written by headstart"
MAKE_ROOM = (
    "Rename the folder, or remove it if you need nothing in it, and run the same command again; "
    "or choose another --out."
)


@pytest.mark.parametrize("name", ["manifest.json", ".git/HEAD", ".env", "Thumbs.db.docx"])
def test_a_folder_of_other_files_is_never_replaced(name: str, tmp_path: Path) -> None:
    file = tmp_path / "site" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"name": "My site", "icons": []}\n')
    with pytest.raises(WriteError) as caught, folder_aside(tmp_path / "site"):
        pytest.fail("the folder is refused before anything is written")
    why, hint = (
        (UNCLEAR, MAKE_ROOM) if name == "manifest.json" else (OTHERS, "Choose another --out, or an empty folder.")
    )
    assert str(caught.value) == f"{tmp_path}/site: {why}; it is not replaced.\n  {hint}"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_folder_with_only_litter_of_systems_is_replaced_and_not_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name in (".DS_Store", "._run", "Thumbs.db", "desktop.ini", "@eaDir/x"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"x")
    for text in ("first", "second"):
        with folder_aside(out) as folder:
            write_text(folder / "a.txt", text)
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "manifest.json"]
    assert (tmp_path / "run.previous" / "a.txt").read_text() == "first"


@pytest.mark.parametrize("name", ["run.previous/thesis.docx", "run.previous"])
def test_what_has_the_name_of_the_previous_run_is_never_replaced(name: str, tmp_path: Path) -> None:
    out, mine = tmp_path / "run", tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with folder_aside(out) as folder:  # nothing is kept yet, so nothing is in the way
        write_text(folder / "a.txt", "first")
    with pytest.raises(WriteError) as caught, folder_aside(out):
        pytest.fail("the name is refused before anything is written")
    assert str(caught.value) == (
        f"{tmp_path}/run.previous: was not written by headstart; the earlier run would be kept there, replacing it.\n"
        "  Rename it, or choose another --out."
    )
    assert mine.read_text() == "mine" and (out / "a.txt").read_text() == "first"


def test_files_that_were_added_to_a_run_are_kept_with_it_and_not_removed(tmp_path: Path) -> None:
    out, notes = tmp_path / "run", tmp_path / "run.previous" / "notes" / "ideas.txt"
    for text in ("first", "second"):
        with folder_aside(out) as folder:
            write_text(folder / "a.txt", text)
        if text == "first":
            (out / "notes").mkdir()
            (out / "notes" / "ideas.txt").write_text("mine")
            (out / ".DS_Store").write_bytes(b"x")
    with pytest.raises(WriteError) as caught, folder_aside(out):
        pytest.fail("the name is refused before anything is written")
    assert str(caught.value) == (
        f"{tmp_path}/run.previous: contains notes/ideas.txt, which headstart did not write; it would be removed with the "
        "rest.\n  Move it elsewhere, rename the folder, or choose another --out."
    )
    assert notes.read_text() == "mine" and (out / "a.txt").read_text() == "second"
    notes.rename(tmp_path / "ideas.txt")
    with folder_aside(out) as folder:
        write_text(folder / "a.txt", "third")
    assert (tmp_path / "run.previous" / "a.txt").read_text() == "second"


def test_what_takes_the_name_of_the_previous_run_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out, mine = tmp_path / "run", tmp_path / "run.previous" / "thesis.docx"
    with folder_aside(out) as folder:
        write_text(folder / "a.txt", "first")
    with pytest.raises(WriteError, match="was not written by headstart"), folder_aside(out) as folder:
        write_text(folder / "a.txt", "second")
        mine.parent.mkdir()
        mine.write_text("mine")
    assert mine.read_text() == "mine" and (out / "a.txt").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.previous"]


def test_outputs_that_are_in_the_way_are_left_alone(bench: Bench) -> None:
    mine = bench.root / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    recipe = LINEAR
    with pytest.raises(WriteError) as caught:
        headstart.train(bench.photos, out=mine, weights=bench.weights, recipe=recipe)
    assert str(caught.value) == (
        f"{mine}: contains files that headstart did not write; it is not replaced.\n"
        "  Choose another --out, or an empty folder."
    )
    with pytest.raises(WriteError) as caught:
        headstart.train(bench.photos, out=mine / "letter.txt", weights=bench.weights, recipe=recipe)
    assert (
        str(caught.value)
        == f"{mine}/letter.txt: is in the way: a folder would be written there.\n  Choose another --out."
    )
    with pytest.raises(WriteError) as caught:
        headstart.train(bench.photos, out=mine / "letter.txt" / "run", weights=bench.weights, recipe=recipe)
    assert str(caught.value) == (
        f"{mine}/letter.txt/run: could not be written: Not a directory ({mine}/letter.txt).\n"
        "  A file is where a folder is needed: choose another path."
    )
    with pytest.raises(WriteError, match="is a folder; expected the name of a file to write"):
        headstart.predict(bench.model, bench.photos, out=mine)
    for leave in (
        lambda: headstart.evaluate(bench.model, bench.photos, out=bench.model),
        lambda: headstart.predict(bench.model, bench.photos, out=bench.model / "predictions.csv"),
        lambda: headstart.split(bench.photos, out=bench.model / "split.csv"),
    ):
        with pytest.raises(WriteError, match=r"is in the run folder .*, which must not change\."):
            leave()
    assert [p.name for p in mine.iterdir()] == ["letter.txt"]
    check_manifest(bench.model)


def test_an_empty_folder_may_be_the_output(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.root / "empty").mkdir()
    monkeypatch.chdir(bench.root / "empty")
    headstart.train(bench.photos, out=Path("."), weights=bench.weights, recipe=LINEAR)
    check_manifest(bench.root / "empty")
