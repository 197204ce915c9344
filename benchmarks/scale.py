"""How `--shards` behaves as the number of images grows, and how it compares with other ways to do the same work.

    python benchmarks/scale.py list --place DIR                          only list names: 10,000 and 1,000,000
    python benchmarks/scale.py names RUN IMAGES --place DIR --names 100000      images/s and memory, first to last shard
    python benchmarks/scale.py new RUN IMAGES --place DIR                against `headstart predict` on new images
    python benchmarks/scale.py ray RUN IMAGES --place DIR                `--engine ray` against Ray's own read_images

`names` makes that many links to the images, in folders of 1,000, and keeps them for the next time. Speeds are computed from
the times at which parts appear, so they do not include the start. Memory is that of all processes. Use an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADSTART = [sys.executable, "-m", "headstart"]


# Only names


class NameStore:
    """A store of names without files, so that only listing costs time."""

    url = "/names"

    def __init__(self, names: int) -> None:
        self.names = names

    def list(self, after: str = "") -> Iterator[Any]:
        """Yield the names in order."""
        from headstart.io.stores.store import StoredFile

        start = int(after.rpartition("/")[2][:-4]) + 1 if after else 0
        for n in range(start, self.names):
            yield StoredFile(f"{n // 1000:06}/{n:09}.jpg", 40_000, f"{n:x}-{n:x}")


def list_names(names: int, place: Path) -> None:
    """Write the list of that many images; print the seconds to the first shard and in all, and peak memory."""
    from headstart.io.stores.store import open_store
    from headstart.scale.shard_names import ShardNames
    from headstart.scale.shard_plan import ShardPlan
    from headstart.scale.shard_run import in_thread
    from headstart.scale.shard_source import ShardSource

    out = open_store(place / f"names-{names}")
    found = ShardNames(ShardPlan("predict", "/names", "", {}, 10_000, {}), out)
    began = time.monotonic()
    shards = in_thread(found.shards(ShardSource("/names", "/names", NameStore(names))))
    next(shards)
    first = time.monotonic() - began
    count = 1 + sum(1 for _ in shards)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps({"names": names, "shards": count, "first_s": first, "all_s": time.monotonic() - began, "mb": peak})
    )


def compare_lists(place: Path, most: int) -> None:
    """Run `list_names` for few and for many names, each in a separate process."""
    for names in (10_000, most):
        shutil.rmtree(place / f"names-{names}", ignore_errors=True)
        subprocess.run([sys.executable, __file__, "list-one", "--place", str(place), "--names", str(names)], check=True)
        shutil.rmtree(place / f"names-{names}", ignore_errors=True)


# Many names


def link_names(images: Path, folder: Path, names: int) -> None:
    """Make links to images, in turn, until there are that many."""
    files = sorted(path.resolve() for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for n in range(names):
        at = folder / f"{n // 1000:05}" / f"{n:08}{files[n % len(files)].suffix}"
        if n % 1000 == 0:
            at.parent.mkdir(parents=True, exist_ok=True)
        if not at.exists():
            try:
                os.link(files[n % len(files)], at)
            except OSError:  # another file system, or too many links to one file
                os.symlink(files[n % len(files)], at)


def measured(words: list[str], out: Path) -> tuple[list[tuple[float, float]], float, dict[str, Any]]:
    """Run a command; return (seconds, megabytes of all its processes) every second, its seconds, and its JSON output."""
    import psutil

    began = time.time()
    driver = subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, text=True)
    memory = []
    while driver.poll() is None:
        time.sleep(1)
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(driver.pid)
            taken = 0
            for each in (top, *top.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    taken += each.memory_info().rss
            memory.append((time.time() - began, taken / 1e6))
    if driver.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {driver.returncode}")
    return memory, time.time() - began, json.loads(driver.stdout.read() if driver.stdout else "")


def part_times(out: Path) -> list[tuple[float, int]]:
    """The time when each part appeared, and its number of rows, in order of time."""
    import pyarrow.parquet

    parts = sorted(out.glob("part-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return [(path.stat().st_mtime, pyarrow.parquet.read_metadata(path).num_rows) for path in parts]


def rate(parts: list[tuple[float, int]]) -> float:
    """Images per second between the first part and the last."""
    seconds = parts[-1][0] - parts[0][0]
    return sum(rows for _, rows in parts[1:]) / seconds if seconds else float("nan")


def many_names(run: Path, images: Path, place: Path, names: int, shard_size: int) -> None:
    """Predict that many images, and compare the first fifth with the last."""
    link_names(images, place / "links", names)
    shutil.rmtree(place / "parts", ignore_errors=True)
    words = [*HEADSTART, "predict", str(run), str(place / "links"), "--shards", str(place / "parts")]
    began = time.time()
    memory, seconds, document = measured([*words, "--shard-size", str(shard_size)], place / "parts")
    parts = part_times(place / "parts")
    fifth = max(2, len(parts) // 5)
    early, late = (
        sorted(mb for _, mb in chosen) for chosen in (memory[5 : 5 + len(memory) // 5], memory[-len(memory) // 5 :])
    )
    whole = rate(parts)
    print(
        f"{document['images']:,} names in {len(parts)} parts in {seconds:,.0f} s; first part after {parts[0][0] - began:.1f} s"
    )
    print(f"images/s: {whole:,.0f}; first fifth {rate(parts[:fifth]):,.0f}, last fifth {rate(parts[-fifth:]):,.0f}")
    if early and late:
        print(f"memory of all processes: {early[len(early) // 2]:,.0f} MB early, {late[len(late) // 2]:,.0f} MB late")
    print(f"a million: {1e6 / whole / 3600:.2f} h")


# Against `headstart predict`


def new_images(run: Path, images: Path, place: Path, repeats: int) -> None:
    """Predict images that are in no cache, with and without shards in turn."""
    own = Path(os.environ.get("HEADSTART_CACHE", place / "cache"))
    took: dict[str, list[float]] = {"predict": [], "--shards": []}
    count = sum(1 for path in images.rglob("*") if path.is_file())
    for _ in range(repeats):
        for how, seconds in took.items():
            shutil.rmtree(place / "new", ignore_errors=True)
            if (own / "graphs").is_dir():
                shutil.copytree(own / "graphs", place / "new" / "cache" / "graphs")
            os.environ["HEADSTART_CACHE"] = str(place / "new" / "cache")
            ending = (
                ["--shards", str(place / "new" / "parts")]
                if how == "--shards"
                else ["--out", str(place / "new" / "p.csv")]
            )
            began = time.monotonic()
            done = subprocess.run(
                [*HEADSTART, "predict", str(run), str(images), *ending], check=True, capture_output=True, text=True
            )
            seconds.append(time.monotonic() - began)
            count = max(count, sum(1 for path in images.rglob("*") if path.is_file()))
            del done
    for how, seconds in took.items():
        middle = statistics.median(seconds)
        print(f"{how:<9} {middle:6.1f} s  {count / middle:,.0f} images/s  ({', '.join(f'{s:.1f}' for s in seconds)})")
    print(f"ratio {statistics.median(took['predict']) / statistics.median(took['--shards']):.2f}")


# Against Ray


class TorchBackbone:
    """As in Ray's own documentation: a torch network in an actor, images decoded by Ray."""

    def __init__(self, name: str, side: int, weights: str) -> None:
        import timm
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
        self.model = timm.create_model(name, num_classes=0).eval()
        state = load_file(weights)
        self.model.load_state_dict({k: v for k, v in state.items() if k in self.model.state_dict()}, strict=False)
        self.torch = torch

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed a batch, and return the time."""
        import numpy as np

        pixels = self.torch.from_numpy(np.stack(batch["image"])).permute(0, 3, 1, 2).float() / 255
        with self.torch.inference_mode():
            self.model((pixels - 0.5) / 0.5)
        return {"at": [time.time()] * len(batch["image"])}


def own_ray(images: Path, backbone: str, side: int, weights: Path) -> float:
    """Images per second of `read_images().map_batches(torch)`, from the first batch to the last."""
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False)
    try:
        pool = ray.data.ActorPoolStrategy(size=1)
        found = ray.data.read_images(str(images), size=(side, side), mode="RGB").map_batches(
            TorchBackbone, batch_size=32, compute=pool, num_cpus=1, fn_constructor_args=(backbone, side, str(weights))
        )
        times = sorted(row["at"] for row in found.iter_rows())
    finally:
        ray.shutdown()
    return sum(at > times[0] for at in times) / (times[-1] - times[0])


def beside_ray(run: Path, images: Path, place: Path, shard_size: int, backbone: str, weights: Path, side: int) -> None:
    """Measure the local engine, the Ray engine, and Ray alone, one after another on the same images."""
    speeds = {}
    for engine in ("local", "ray"):
        out = place / f"parts-{engine}"
        shutil.rmtree(out, ignore_errors=True)
        words = [*HEADSTART, "predict", str(run), str(images), "--shards", str(out)]
        _, seconds, document = measured([*words, "--shard-size", str(shard_size), "--engine", engine], out)
        speeds[engine] = rate(part_times(out))
        print(
            f"{engine:<8} {speeds[engine]:,.0f} images/s after the first part; {seconds:.1f} s in all; {document['sha256']}"
        )
    speeds["own"] = own_ray(images, backbone, side, weights)
    print(f"Ray's own read_images and torch: {speeds['own']:,.0f} images/s")
    print(f"ray / local {speeds['ray'] / speeds['local']:.2f}; ray / own {speeds['ray'] / speeds['own']:.2f}")


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "list-one", "names", "new", "ray"))
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--place", type=Path, required=True, help="Folder for links and parts.")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbone", default="mobilenetv2_100", help="ray: the run's architecture.")
    parser.add_argument("--side", type=int, default=224, help="ray: the run's image size.")
    parser.add_argument("--weights", type=Path, help="ray: the weights of that architecture.")
    given = parser.parse_args()
    given.place.mkdir(parents=True, exist_ok=True)
    if given.what == "list":
        compare_lists(given.place, given.names)
    elif given.what == "list-one":
        list_names(given.names, given.place)
    elif given.what == "names":
        many_names(given.run, given.images, given.place, given.names, given.shard_size)
    elif given.what == "new":
        new_images(given.run, given.images, given.place, given.repeats)
    else:
        beside_ray(given.run, given.images, given.place, given.shard_size, given.backbone, given.weights, given.side)


if __name__ == "__main__":
    main()
