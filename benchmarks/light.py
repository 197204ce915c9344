"""An installation without PyTorch: its size, and the time of `predict` there: `python benchmarks/light.py RUN IMAGE`.

RUN was trained on a machine with PyTorch, on a network whose graph comes with headstart. The script makes a virtual
environment with `pip install .` (which downloads from a package index), and prints its size and that of this environment's
packages. Times are of whole processes: the first one compiles the network for this CPU, the others find it in the cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headstart.model.backbones.packages import needed_packages

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = "import sys, headstart; headstart.predict(*sys.argv[1:]); print(sorted({'torch', 'timm'} & set(sys.modules)))"


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    packages = needed_packages()
    print(f"here: {len(packages)} packages, {sum(map(installed_mb, (p.name for p in packages))):,.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.run.resolve(), options.image.resolve(), options.rounds)


def measure(folder: Path, run: Path, image: Path, rounds: int) -> None:
    """Make the environment, and print its size and times."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", str(REPOSITORY)], check=True)
    listed = subprocess.run([*pip, "list"], capture_output=True, text=True, check=True).stdout
    size = sum(file.lstat().st_size for file in venv.rglob("*") if file.is_file())
    print(f"light: {len(listed.splitlines()) - 2} packages, {size / 1e6:,.0f} MB with pip")
    command = [str(venv / "bin" / "headstart"), "predict", str(run), str(image)]
    program = [str(venv / "bin" / "python"), "-c", PROGRAM, str(run), str(image)]
    first, *later = [seconds(command, folder) for _ in range(rounds + 1)]
    print(f"predict: first process {first:.2f} s, later ones {statistics.median(later):.2f} s (median of {rounds})")
    print(f"in Python: {statistics.median(seconds(program, folder) for _ in range(rounds)):.2f} s")


def seconds(command: list[str], folder: Path) -> float:
    """Return the seconds that a command takes, with a cache of its own and none of this environment's paths."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    begun = time.monotonic()
    environment["HEADSTART_CACHE"] = str(folder / "cache")
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def installed_mb(name: str) -> float:
    """Return the size of an installed package's files in MB."""
    files = importlib.metadata.files(name) or []
    return sum(f.stat().st_size for file in files if (f := Path(str(file.locate()))).is_file()) / 1e6


if __name__ == "__main__":
    main()
