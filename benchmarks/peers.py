"""The same images and the same weights through Keras, fastai, a plain timm loop and headstart, as whole processes.

    pip install ".[bench]"
    python benchmarks/peers.py DATA --weights-dir DIR [--rounds 5] [--only keras headstart ...] [--out FILE]
    python benchmarks/peers.py DATA --weights-dir DIR --check

DATA has `train/` and `test/`, each with the same two class folders (the Keras recipe is for two). DIR holds
mobilenetv2_100.tf_in1k.safetensors and .json. The peers are the scripts in benchmarks/peers/, each written as its
own documentation recommends:

    keras      MobileNetV2, Dense(32), Dense(1), 160 px, RMSprop 1e-4, 10 epochs, best checkpoint (`mobilenetv2-dense32`)
    fastai     `vision_learner`, one epoch with the backbone frozen, 224 px
    timm       frozen backbone, a linear layer, Adam, 5 epochs, 224 px
    headstart  `headstart train DATA --backbone mobilenetv2_100.tf_in1k`, all else default, so it may fine-tune too;
               -linear adds --approach linear; -linear-160 is that at 160 px, as Keras; -auto is without --backbone, so it
               chooses among the weights in DIR. All with --no-report, since the peers make no page either

Each headstart run starts with an empty cache of its own; `-compiled` ones with only the compiled pretrained networks in it:
no features, and no knowledge of the images. A round runs each entry once; the next round begins with a different entry. The
whole process is timed, including imports and the evaluation of the test folder; accuracy is what each entry reports for that
folder. The number of the round is the seed of all entries. Printed are medians of the seconds and of the ratios within a
round (since the speed of machines changes), and the mean and range of accuracy. `--out` writes all measurements as JSON after
each run, with its CPU seconds (all its processes together) and the load of the machine when it began; benchmarks/chart.py
draws that file.

Before the timing starts, all peers compute the features of one image, which must agree: this shows that the weights are the
same, and brings the libraries into memory. `--check` stops there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BACKBONE = "mobilenetv2_100.tf_in1k"
SCRIPTS = {"keras": "keras_r2.py", "fastai": "fastai_epoch.py", "timm": "timm_loop.py"}
LINEAR = ("--approach", "linear")
HEADSTART = {
    "headstart-linear": ("--backbone", BACKBONE, *LINEAR),
    "headstart-linear-160": ("--backbone", BACKBONE, *LINEAR, "--image-size", "160"),
    "headstart": ("--backbone", BACKBONE),
    "headstart-auto": (),
}
COMPILED = "-compiled"
ENTRIES = (*SCRIPTS, *HEADSTART, *(name + COMPILED for name in HEADSTART))
CHECK_PIXELS, AGREES = 160, 1e-3
PACKAGES = {"keras": ("keras", "tensorflow-cpu"), "fastai": ("fastai", "torch"), "timm": ("timm", "torch")}


@dataclass(frozen=True)
class Bench:
    """What is compared: the data, the weights, and the Python and the options of each peer."""

    data: Path
    weights_dir: Path
    folder: Path
    pythons: dict[str, str]
    options: dict[str, tuple[str, ...]]

    def peer(self, name: str, *options: str) -> list[str]:
        """The command of one peer's script."""
        script = Path(__file__).parent / "peers" / SCRIPTS[name]
        weights = self.weights_dir / f"{BACKBONE}.safetensors"
        return [self.pythons[name], str(script), str(self.data), "--weights", str(weights), *options]

    def headstart(self, name: str, *options: str) -> list[str]:
        """The command of a `headstart train`."""
        train = [
            sys.executable,
            "-m",
            "headstart",
            "train",
            str(self.data),
            "--out",
            str(self.folder / "run"),
            "--json",
            "--no-report",
        ]
        return [*train, "--weights-dir", str(self.weights_dir), *HEADSTART[name], *options]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of one entry: the whole process, and its accuracy on the test folder."""

    entry: str
    seed: int
    seconds: float
    cpu_seconds: float
    accuracy: float
    load: float
    """The machine's load average (one minute) when the run began."""


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=ENTRIES, metavar="ENTRY", help=" ".join(ENTRIES))
    for name in SCRIPTS:
        parser.add_argument(f"--python-{name}", default=sys.executable, help=f"interpreter that has {name} (this one)")
    parser.add_argument("--keras-epochs", type=int, default=10)
    parser.add_argument("--timm-epochs", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224, help="of fastai and timm, in pixels (224)")
    parser.add_argument("--out", type=Path, help="JSON file to write, with every measurement")
    parser.add_argument("--check", action="store_true", help="only compare the features of one image")
    args = parser.parse_args()
    size = ("--image-size", str(args.image_size))
    options = {
        "keras": ("--epochs", str(args.keras_epochs)),
        "fastai": size,
        "timm": (*size, "--epochs", str(args.timm_epochs)),
    }
    pythons = {name: getattr(args, f"python_{name}") for name in SCRIPTS}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.data, args.weights_dir, Path(folder), pythons, options)
        check(bench, [name for name in SCRIPTS if name != "timm" and (args.check or name in args.only)])
        if not args.check:
            report(measure(bench, list(args.only), args.rounds, args.out))


def check(bench: Bench, names: list[str]) -> None:
    """Print how far the peers' features of one image are from timm's; stop if the difference is more than rounding."""
    image = sorted(p for p in (bench.data / "test").rglob("*") if p.is_file())[0]
    with Image.open(image) as opened:
        small = opened.convert("RGB").resize((CHECK_PIXELS, CHECK_PIXELS))
    pixels = bench.folder / "pixels.npy"
    np.save(pixels, np.asarray(small, np.float32) / 127.5 - 1)
    with_timm = np.array(said(bench.peer("timm", "--check", str(pixels))))
    for name in names:
        features = np.array(said(bench.peer(name, "--check", str(pixels))))
        apart, largest = float(np.abs(features - with_timm).max()), float(with_timm.max())
        print(f"features of one image, {name} - timm: at most {apart:.1e} apart (largest feature {largest:.2f})")
        if apart > AGREES:
            raise SystemExit(f"{name} does not compute with the same weights.")


def measure(bench: Bench, names: list[str], rounds: int, out: Path | None) -> list[Measured]:
    """Run all entries in turn."""
    graphs = {name: compiled(bench, name) for name in names if name.endswith(COMPILED)}
    about = circumstances(bench, names)
    measured: list[Measured] = []
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            one = timed(bench, name, number, graphs.get(name))
            measured.append(one)
            print(f"round {number + 1}  {name:26s} {one.seconds:7.2f} s   accuracy {one.accuracy:.4f}", flush=True)
            if out is not None:
                whole = {**about, "measured": [asdict(m) for m in measured]}
                out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return measured


def circumstances(bench: Bench, names: list[str]) -> dict[str, Any]:
    """What was compared, on which machine, with which versions: the head of the JSON file."""
    n_images = {part: sum(p.is_file() for p in (bench.data / part).rglob("*")) for part in ("train", "test")}
    versions = {"python": platform.python_version(), "headstart": metadata.version("headstart")}
    for name in (name for name in names if name in SCRIPTS):
        program = f"print(json.dumps({{p: version(p) for p in {PACKAGES[name]}}}))"
        program = f"import json; from importlib.metadata import version; {program}"
        versions |= said([bench.pythons[name], "-c", program])
    return {
        "data": bench.data.name,
        "images": n_images,
        "backbone": BACKBONE,
        "options": {
            name: list(bench.options.get(name, HEADSTART.get(name.removesuffix(COMPILED), ()))) for name in names
        },
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }


def compiled(bench: Bench, name: str) -> Path:
    """The compiled pretrained networks that a run of this entry needs, without those that it makes by fine-tuning."""
    cache, entry = bench.folder / name, name.removesuffix(COMPILED)
    said(bench.headstart(entry, *(() if "linear" in entry else LINEAR)), cache)
    return cache / "graphs"


def timed(bench: Bench, name: str, seed: int, graphs: Path | None) -> Measured:
    """Run one entry; headstart's with a fresh cache."""
    cache = bench.folder / "cache"
    cache.mkdir()
    if graphs is not None:
        shutil.copytree(graphs, cache / "graphs")
    if name in SCRIPTS:
        command = bench.peer(name, *bench.options[name], "--seed", str(seed))
    else:
        command = bench.headstart(name.removesuffix(COMPILED), "--seed", str(seed))
    load, begun, cpu_begun = os.getloadavg()[0], time.perf_counter(), cpu_of_children()
    answer = said(command, cache)
    seconds, cpu_seconds = time.perf_counter() - begun, cpu_of_children() - cpu_begun
    shutil.rmtree(cache)
    for run in bench.folder.glob("run*"):
        shutil.rmtree(run)
    accuracy = answer["accuracy"] if name in SCRIPTS else answer["test"]["overall"]["accuracy"]["value"]
    times = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "load": round(load, 1)}
    return Measured(entry=name, seed=seed, accuracy=accuracy, **times)


def cpu_of_children() -> float:
    """CPU seconds of all child processes that have ended, and of their own children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def said(command: list[str], cache: Path | None = None) -> Any:
    """What a command prints as JSON on its last line. Stops with its error if it fails."""
    environment = {**os.environ, **({"HEADSTART_CACHE": str(cache)} if cache else {})}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(measured: list[Measured]) -> None:
    """Print medians, and each peer's seconds as a multiple of each headstart entry's."""
    names = list(dict.fromkeys(m.entry for m in measured))
    of = {name: sorted((m for m in measured if m.entry == name), key=lambda m: m.seed) for name in names}
    print(f"\n{'':26s} {'seconds':>8s} {'range':>16s} {'of CPU':>8s}   {'accuracy':>8s} {'range':>18s}")
    for name in names:
        seconds, accuracies = [m.seconds for m in of[name]], [m.accuracy for m in of[name]]
        spread = f"{min(seconds):.1f} - {max(seconds):.1f}"
        cpu = statistics.median(m.cpu_seconds for m in of[name])
        between = f"{min(accuracies):.4f} - {max(accuracies):.4f}"
        mean = statistics.fmean(accuracies)
        print(f"{name:26s} {statistics.median(seconds):8.2f} {spread:>16s} {cpu:8.1f}   {mean:8.4f} {between:>18s}")
    for ours in (name for name in names if name not in SCRIPTS):
        for label, attribute in (("as long take", "seconds"), ("as many seconds of CPU take", "cpu_seconds")):
            ratios = {
                peer: [getattr(a, attribute) / getattr(b, attribute) for a, b in zip(of[peer], of[ours], strict=True)]
                for peer in names
                if peer in SCRIPTS
            }
            text = (f"{p} {statistics.median(r):.1f} x ({min(r):.1f} to {max(r):.1f})" for p, r in ratios.items())
            if ratios:
                print(f"{ours}: {label} {', '.join(text)}")


if __name__ == "__main__":
    main()
