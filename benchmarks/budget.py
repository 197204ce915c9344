"""What more time buys: `python benchmarks/budget.py DATA... --weights-dir DIR --out budget.json`.

Each run is a whole `headstart train` in a new process with an empty cache, for every data set, budget and seed. Prints a
table in Markdown: test accuracy, mean over seeds, for each data set and over all, log-loss over all, and the seconds that
were used. Runs take as long as their budgets allow (10m, four data sets, three seeds: up to two hours), so each result is
written to the JSON file at once, and the next call continues from there. Use an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

Result = Mapping[str, Any]


def main() -> None:
    """Parse the command line, run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--budgets", nargs="+", default=["1m", "4m", "10m"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--options", default="", help="further options of train, in one string")
    parser.add_argument("--out", type=Path, required=True, help="JSON file with the results so far")
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.seeds):
        for data in options.data:
            for budget in options.budgets:
                about = {"data": data.name, "budget": budget, "seed": seed, "options": options.options}
                if any(about.items() <= result.items() for result in results):
                    continue
                more = [*options.options.split(), "--budget", budget, "--seed", str(seed)]
                results.append(about | trained(data, options.weights_dir, more))
                options.out.write_text(json.dumps(results, indent=1))
                print(results[-1], file=sys.stderr, flush=True)
    wanted = [r for r in results if r["budget"] in options.budgets and r["options"] == options.options]
    print(table(wanted, [data.name for data in options.data], options.budgets))


def trained(data: Path, weights_dir: Path, more: Sequence[str]) -> dict[str, Any]:
    """Train in a new process with an empty cache; return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "headstart", "train", str(data), "--out", str(run), "--offline"]
        command += ["--weights-dir", str(weights_dir), "--no-report", *more]
        begun = time.perf_counter()
        environment = os.environ | {"HEADSTART_CACHE": str(Path(folder) / "cache")}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        seconds = time.perf_counter() - begun
        test = json.loads((run / "metrics.json").read_text())["test"]
        made = json.loads((run / "headstart.json").read_text())
    figures = {name: test["overall"][name]["value"] for name in ("accuracy", "log_loss", "ece")}
    members = [f"{m['backbone']} {m['preprocess']['image_size']} {m['preprocess']['resize']}" for m in made["members"]]
    return {**figures, "seconds": round(seconds, 1), "members": members, "tuned": bool(made["provenance"]["tuned"])}


def table(results: Sequence[Result], names: Sequence[str], budgets: Sequence[str]) -> str:
    """Return the means over seeds as a table in Markdown, a row per budget."""
    lines = [f"| budget | {' | '.join(names)} | mean | log-loss | seconds |", "|---|" + "---|" * (len(names) + 3)]
    for budget in budgets:
        rows = [r for r in results if r["budget"] == budget]
        each = [mean(r["accuracy"] for r in rows if r["data"] == name) for name in names]
        log_loss = mean(mean(r["log_loss"] for r in rows if r["data"] == name) for name in names)
        cells = [
            *(f"{x:.3f}" for x in [*each, mean(each)]),
            f"{log_loss:.3f}",
            f"{mean(r['seconds'] for r in rows):.0f}",
        ]
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
