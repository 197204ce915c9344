"""What a bucket's latency costs, and what a pack saves:

    python benchmarks/stores.py RUN IMAGES [--images 600] [--latency 0.05]

The images of a folder are predicted in this process as with `--shards`: from the folder, from a store that delays each
request (without using CPU), and from a pack in that store. The three take turns, three times; the best of each counts. The
aim for a bucket is 0.90 of the folder's rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headstart.data.packs.pack_store import opened_images
from headstart.exporters.open_classifier import open_classifier
from headstart.io.stores.local_store import LocalStore
from headstart.io.stores.store import Store, open_store
from headstart.scale.shard_columns import open_columns, predict_model
from headstart.scale.shard_pass import READERS, Reduces, ShardPass
from headstart.scale.shard_plan import ShardJob, ShardPlan, software_here
from headstart.verbs.pack import pack


class Slow:
    """A store that delays its requests and counts them."""

    def __init__(self, store: Store, seconds: float) -> None:
        self.url, self._store, self._seconds = f"slow://{store.url}", store, seconds
        self.list, self.requests, self._lock = store.list, 0, threading.Lock()

    def read(self, key: str, **how: object) -> bytes:
        """Read from the underlying store after the delay."""
        with self._lock:
            self.requests += 1
        time.sleep(self._seconds)
        return self._store.read(key, **how)


def rate(columns: Reduces, store: Store, ahead: int, most: int) -> float:
    """Return images per second, without the time for opening networks."""
    files = [file for file in store.list() if file.key.lower().endswith((".jpg", ".jpeg", ".png"))][:most]
    work = ShardPass(columns, lambda file: store.read(file.key), ahead=ahead)
    work.open()
    started = time.perf_counter()
    rows = work.run(files, {})
    assert not rows.errors, rows.errors
    return len(files) / (time.perf_counter() - started)


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images_at", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--latency", type=float, default=0.05)
    asked = parser.parse_args()
    classifier = open_classifier(asked.run).classifier
    model = predict_model(classifier)
    software = software_here(model["runtime"]["engine"])
    plan = ShardPlan("predict", str(asked.images_at), "", model, 10_000, software)
    columns = open_columns(ShardJob(plan=plan, files="", out="", run=str(asked.run.absolute())))
    with tempfile.TemporaryDirectory() as folder:
        pack(asked.images_at, out=Path(folder) / "packed")
        packed, wait = LocalStore(Path(folder) / "packed"), asked.latency
        places: dict[str, tuple[Callable[[], Store], int]] = {
            "folder": (lambda: open_store(asked.images_at), 0),
            "slow": (lambda: Slow(LocalStore(asked.images_at), wait), READERS),
            "slow, packed": (lambda: opened_images(Slow(packed, wait)), READERS),
        }
        best = dict.fromkeys(places, 0.0)
        for _ in range(3):
            for name, (opened, ahead) in places.items():
                best[name] = max(best[name], rate(columns, opened(), ahead, asked.images))
    rates = {name: round(rate, 1) for name, rate in best.items()}
    print(
        json.dumps(
            {"images_per_second": rates, "of_folder": {n: round(r / best["folder"], 3) for n, r in best.items()}}
        )
    )


if __name__ == "__main__":
    main()
