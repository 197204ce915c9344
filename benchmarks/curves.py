"""The epochs of several runs in one chart: `python benchmarks/curves.py NAME=RUN,RUN... --out docs/figures`.

    for s in 0 1 2; do headstart train intel-scenes --recipe scratch-cnn --seed $s --out scratch-cnn-$s; done   # and so on
    python benchmarks/curves.py scratch-cnn=scratch-cnn-0,scratch-cnn-1 scratch-cnn-fixed=... --out docs/figures

Validation accuracy against the number of images that the network has been shown, not against epochs: an epoch of 62
batches is not the same as one of 150. There is one line
per run, with its kept epoch marked; a dashed line is the test accuracy that a recipe's source states for the end of its
own training. Also prints a line for each recipe: epochs, images shown, and the accuracies at the kept epoch and on the
test set.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from headstart.io.files import read_csv, read_json
from headstart.reports.figure_style import (
    BLUE,
    GREEN,
    MUTED,
    PURPLE,
    RED,
    as_percent,
    blank,
    key,
    note,
    panel,
    save_figure,
)
from headstart.runs.run_folder import RunFolder
from headstart.training.recipe_files import describe

COLOURS = (BLUE, RED, GREEN, PURPLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="NAME=RUN,RUN...")
    parser.add_argument("--out", type=Path, required=True, help="folder for curves.svg and curves.png")
    given = parser.parse_args()
    recipes = {name: [Path(run) for run in runs.split(",")] for name, runs in (r.split("=") for r in given.recipes)}
    figure, (width, height) = blank(560, 300), (560, 300)
    key(figure, [("●", COLOURS[n], name) for n, name in enumerate(recipes)], 52)
    axes = panel(
        figure, (52, 38, width - 20, height - 28), x="thousands of images shown", y="validation accuracy", gap=50
    )
    as_percent(axes, "y")
    for n, (name, runs) in enumerate(recipes.items()):
        for run in runs:
            shown_E, rows, best = rounds(run)
            accuracy_E = [float(row["val_accuracy"]) for row in rows]
            axes.plot(shown_E, accuracy_E, color=COLOURS[n], linewidth=1.3)
            axes.plot(shown_E[best], accuracy_E[best], "o", color=COLOURS[n], markersize=5)
        stated = describe(name).published.get("accuracy")
        if stated is not None:
            axes.axhline(stated, color=COLOURS[n], linewidth=0.9, linestyle=(0, (4, 3)))
            note(
                axes,
                1.0,
                stated + 0.008,
                f"{name}, published: {stated:.1%}",
                ha="right",
                transform=axes.get_yaxis_transform(),
            )
        print(line(name, runs))
    axes.set_xlim(left=0)
    axes.tick_params(labelcolor=MUTED)
    save_figure(figure, given.out, "curves", label="Validation accuracy against images shown, for recipes from scratch")


def rounds(run: Path) -> tuple[list[float], list[dict[str, str]], int]:
    """Thousands of images shown by the end of each epoch, the rows of epochs.csv, and the kept epoch."""
    rows, made = read_csv(run / "epochs.csv"), RunFolder(run).provenance
    if made.training is None:
        raise SystemExit(f"{run}: nothing was trained by gradient descent.")
    steps = len(read_csv(run / "steps.csv")) / len(rows)
    each = steps * made.recipe.batch_size / 1000
    return [each * (n + 1) for n in range(len(rows))], rows, made.training.best_epoch


def line(name: str, runs: list[Path]) -> str:
    """A row of a table in Markdown; ranges over the runs."""
    found: dict[str, list[Any]] = {"epochs": [], "thousand images": [], "train": [], "val": [], "test": []}
    for run in runs:
        shown_E, rows, best = rounds(run)
        found["epochs"].append(len(rows))
        found["thousand images"].append(round(shown_E[-1]))
        found["train"].append(float(rows[best]["train_accuracy"]))
        found["val"].append(float(rows[best]["val_accuracy"]))
        found["test"].append(read_json(run / "metrics.json")["test"]["overall"]["accuracy"]["value"])
    return f"| {name} | " + " | ".join(_range(values) for values in found.values()) + " |"


def _range(values: list[Any]) -> str:
    low, high = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
