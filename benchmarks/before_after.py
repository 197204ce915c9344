"""Whether two checkouts give the same results, command by command, on real images:

    python benchmarks/before_after.py run CHECKOUT --data DIR --weights-dir DIR --out RESULTS
    python benchmarks/before_after.py diff RESULTS_A RESULTS_B

`run` calls the command line of a checkout (its `src`, whatever is installed) and keeps all that it writes in RESULTS; steps
that are done are skipped the next time. DIR has `cats-dogs.zip` and `intel-scenes.zip`. Each set is trained by `linear`,
`finetune` and `frozen`, with many options at once, and by every named recipe for one short epoch; then come `compare`,
`check --labels`, and `kaggle` against the local server of the tests. Nothing depends on time: budgets are far too large.

`diff` compares numbers and tensors to the bit, tables by row and column; it prints a line for each step, and exits with 1 if
anything differs. Renamed options are in `RENAMED`; columns that only B has do not count. Run both on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

# {after: before} of options, values, columns, keys and files, with _ for -
RENAMED = {"lr": "max_lr", "clip_grad": "clip", "lr_scheduler": "schedule", "wise_ft": "wise", "val_size": "val"}
RENAMED |= {"n_views": "views", "model_ema_decay": "ema", "grad_accum_steps": "accumulate", "warmup_ratio": "warmup"}
RENAMED |= {"conformal_alpha": "alpha", "conformal_threshold": "threshold", "normalize": "pixels", "n_images": "images"}
RENAMED |= {"write_corrections": "fixes", "corrections.csv": "fixes.csv", "head_sgd": "frozen", "p_value": "p"}
# What depends on time; texts, and the length of a file that contains texts
NOT_COMPARED = {"seconds", "train_seconds", "images_per_second", "peak_memory_mb", "latency_ms", "on_front"}
NOT_COMPARED |= {"pareto_optimal", "recipe", "message", "why", "method", "file_bytes"}
# Tables by their earlier names, and the columns that identify a row; without any, rows are numbered
TABLES = {"predictions.csv": "path", "split.csv": "path", "fixes.csv": "path", "checks.csv": "check path"}
TABLES |= {"copies.csv": "path copy", "checks-copies.csv": "path copy", "comparison.csv": "name"}
TABLES |= {"pairs.csv": "a b metric", "history.csv": "", "epochs.csv": "", "steps.csv": ""}
# What is compared in headstart.json, outside the recipe
PROVENANCE = {"temperature", "threshold", "alpha", "clip", "split_hash", "best_epoch", "max_lr", "wise", "chosen"}
Values = dict[tuple[str, str, str], str]  # (file, row, column): value, all by the earlier names
SETS = {"cats-dogs": 160, "intel-scenes": 70}  # training images per class in the smaller sets; a third as many for test
BACKBONE, OTHER = "mobilenetv2_100.tf_in1k", "mobilenetv1_100.tf_qat_in1k"
USUAL, ONE, TWO = "--budget=2h --seed=0", f"--backbone={BACKBONE}", f"--backbones={BACKBONE},{OTHER}"
TRAIN = f"--out=run --no-report --offline {USUAL}"
TUNED = f"--epochs=2 --max-lr=0.0005 --unfreeze=3 --views=2 --layer-decay=0.8 --wise=auto --backbone={OTHER}"
TRIAL = f"approach = 'finetune'\nbackbone = '{BACKBONE}'\nepochs = 1\nunfreeze = '1'\n"
RECIPES = dict.fromkeys(("scratch-cnn", "scratch-cnn-fixed", "augmented-cnn", "augmented-cnn-fixed"), "")
RECIPES |= {"transfer": ONE, "resnet34-onecycle": f"{ONE} --batch-size=16", "default": "--unfreeze=2"}
RECIPES |= dict.fromkeys(("kaggle-mobilenetv2", "mobilenetv2-dense32"), f"{ONE} --views=1 --loss=LOSS")
STEPS = {  # in the earlier spelling
    "linear": f"train FULL --approach=linear {TRAIN}",
    "check": f"check FULL --labels {ONE} --out=checks.csv --fixes=fixes.csv --offline",
    "kaggle": f"kaggle SET --train --approach=linear {ONE} --out=data --run=run --submit-file=submission.csv {USUAL}",
    "finetune": f"train SMALL --approach=finetune {TUNED} {TRAIN}",
    "frozen": f"train SMALL --approach=frozen --epochs=2 {ONE} {TRAIN}",
    "options": "train SMALL --approach=scratch --dropout=0.2 --class-weight=balanced --augment=flip,rotation=20 --mixup=0.2 "
    "--cutmix=0.5 --tta=flip --epochs=2 --steps-per-epoch=6 --batch-size=16 --accumulate=2 --optimizer=sgd --max-lr=0.02 "
    "--schedule=cosine --warmup=0.2 --weight-decay=0.001 --clip=1.0 --label-smoothing=0.1 --ema=0.9 --patience=1 "
    f"--monitor=val_accuracy --val=0.3 --alpha=0.2 --image-size=96 --resize=pad --pixels=unit {TRAIN}",
    **{r: f"train SMALL --recipe={r} --epochs=1 --steps-per-epoch=8 {more} {TRAIN}" for r, more in RECIPES.items()},
    "compare": f"compare SMALL --recipes=linear,TRIAL {TWO} --out=comparison --offline {USUAL}",
}


def run(checkout: Path, data: Path, weights_dir: Path, out: Path, only: str) -> bool:
    """Run the steps that are not done yet; return whether all of them succeeded."""
    variables = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HEADSTART_CACHE": str(out / "cache")}
    variables |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    made, results = out / "made", out / "results.json"
    for name, each in SETS.items():
        for path, image in images_of(data / f"{name}.zip", each, each // 3):
            (made / name / path).parent.mkdir(parents=True, exist_ok=True)
            (made / name / path).write_bytes(image)
    (made / "trial.toml").write_text(TRIAL)
    call = functools.partial(subprocess.run, capture_output=True, encoding="utf-8", env=variables)
    where = call([sys.executable, "-c", "import headstart; print(headstart.__file__)"], cwd=made).stdout
    commit = call(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=checkout).stdout.strip()
    record: Any = json.loads(results.read_text()) if results.exists() else {"commit": commit, "steps": {}}
    if record["commit"] != commit or not where.startswith(f"{checkout}{os.sep}"):
        sys.exit(f"{checkout} is at {commit}, {results} of {record['commit']}; imported is {where or 'nothing'}.")
    for of, step in ((of, step) for of in SETS for step in STEPS):
        name, place = f"{of}/{step}", out / "steps" / of / step
        if record["steps"].get(name, {"code": None})["code"] == 0 or not name.startswith(only):
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        meant = {"SET": of, "FULL": f"{data / of}.zip", "SMALL": f"{made / of}", "TRIAL": f"{made / 'trial.toml'}"}
        meant["LOSS"] = "binary" if of == "cats-dogs" else "cross_entropy"
        verb, *words = [re.sub("[A-Z]{3,}", lambda m, meant=meant: meant[m[0]], word) for word in STEPS[step].split()]
        headstart = [sys.executable, "-m", "headstart", verb]
        known = set(re.findall(r"[-\w]+", call([*headstart, "--help"], cwd=place).stdout))
        options = [*(spelled(word, known) for word in words), "--json", f"--weights-dir={weights_dir}"]
        begun = time.monotonic()
        with kaggle_of(of, data) if verb == "kaggle" else contextlib.nullcontext({}) as more:
            ended = call([*headstart, *options], cwd=place, env=variables | more)
        (place / "stdout.json").write_text(ended.stdout)
        (place / "stderr.txt").write_text(ended.stderr)
        did = {"code": ended.returncode, "seconds": round(time.monotonic() - begun, 1), "command": [verb, *options]}
        record["steps"][name] = did
        results.write_text(json.dumps(record, indent=1))
        print(f"{name:<36}{did['seconds']:>7} s   exit code {did['code']}", flush=True)
    return all(step["code"] == 0 for step in record["steps"].values())


def spelled(word: str, known: set[str]) -> str:
    """`--option=value` as a checkout with these words in its help spells it: by the later names if it has them."""
    option, equals, value = word.partition("=")
    for after, before in RENAMED.items():
        earlier, later = (f"--{name}".replace("_", "-") for name in (before, after))
        option = later if option == earlier and later in known else option
        value = after if value == before and after in known else value
    return option + equals + value


def images_of(archive: Path, train: int, test: int) -> Iterator[tuple[str, bytes]]:
    """(Path, bytes) of that many images of each class in either set, always the same ones in the same order."""
    count = Counter[str]()
    with zipfile.ZipFile(archive) as source:
        names = sorted(n for n in source.namelist() if n.endswith(".jpg"))
        for name in random.Random(0).sample(names, len(names)):
            path = name.partition("/")[2]
            count[place := path.rpartition("/")[0]] += 1
            if count[place] <= (train if path.startswith("train") else test):
                yield path, source.read(name)


@contextlib.contextmanager
def kaggle_of(name: str, data: Path) -> Iterator[dict[str, str]]:
    """Serve a small competition of real images locally; yield the variables that send Kaggle's client there."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from kaggle_server import Competition, kaggle_server, redux

    images = [(path.split("/"), image) for path, image in images_of(data / f"{name}.zip", 40, 10)]
    train = {f"{label}.{n}.jpg": image for n, ((side, label, _), image) in enumerate(images) if side == "train"}
    test = {f"{n}.jpg": image for n, ((side, _, _), image) in enumerate(images) if side == "test"}
    classes = sorted({label for (_, label, _), _ in images})
    columns = classes if len(classes) > 2 else ["label"]
    rows = [["id", *columns], *([Path(name).stem, *["0.5"] * len(columns)] for name in test)]
    sample = "\n".join(map(",".join, [*rows, ""]))
    with kaggle_server(Competition(name, redux(train, test, sample))) as server:
        yield {**server.environment, "KAGGLE_CONFIG_DIR": os.devnull}


def diff(a: Path, b: Path) -> bool:
    """Print a line for each step; return whether all are equal."""
    before, after = (json.loads((folder / "results.json").read_text())["steps"] for folder in (a, b))
    equal = True
    for name in dict.fromkeys([*before, *after]):
        codes = [steps.get(name, {"code": None})["code"] for steps in (before, after)]
        values = [values_of(folder / "steps" / name) for folder in (a, b)]
        lines = differences(*values) if codes == [0, 0] else [f"DIFFERS: exit codes {codes}"]
        print(f"{name:<36}{lines[0]}", *lines[1:], sep="\n    ", flush=True)
        equal &= lines[0].startswith("equal")
    return equal


def differences(a: Values, b: Values) -> list[str]:
    """A summary of the differences, and then a line for each file and column."""
    rows = {key[:2] for key in a}
    wrong = {k: (v, b.get(k, "nothing")) for k, v in a.items() if b.get(k) != v}
    wrong |= {k: ("nothing", v) for k, v in b.items() if k[:2] not in rows}
    n = Counter(file for file, _, _ in wrong)
    shown = {k[0]: f"{k[0]}: {n[k[0]]:,}, such as {k[1]} {k[2]}: {v[0][:24]} -> {v[1][:24]}" for k, v in wrong.items()}
    new = {f"only in B: {file}: {column}" for file, row, column in b.keys() - a.keys() if (file, row) in rows}
    head = f"DIFFERS in {len(wrong):,} values" if wrong or not a else f"equal: {len(a):,} values"
    return [head, *shown.values(), *sorted(new)]


def values_of(place: Path) -> Values:
    """Everything that a step wrote and that is compared."""
    found: Values = {}
    for n, path in enumerate(sorted(place.rglob("*.safetensors"))):
        for name, value in load_file(path).items():
            found[f"weights {n}", name, f"{value.dtype} {value.shape}"] = hashlib.sha256(value.tobytes()).hexdigest()
    for path in sorted([*place.rglob("*.csv"), *place.rglob("*.json")]):
        file = "/".join(former(part) for part in path.relative_to(place).parts)
        if path.name == "submission.csv":
            found[file, "", "bytes"] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif former(path.name) in TABLES:
            found |= {(file, row, column): cell for row, column, cell in cells(path, TABLES[former(path.name)].split())}
        elif path.name in ("metrics.json", "headstart.json"):
            for names, value in leaves(json.loads(path.read_text())):
                first = [n for n, name in enumerate(names) if name in PROVENANCE or path.name == "metrics.json"][:1]
                found |= {(file, "", "/".join(names[n:])): value for n in first}
    return found


def cells(path: Path, keys: list[str]) -> Iterator[tuple[str, str, str]]:
    """(Row, column, value) of a CSV file."""
    members, seen = dict[str, str](), Counter[str]()
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        for n, read in enumerate(csv.DictReader(lines)):
            row = {former(column): cell for column, cell in read.items()}
            if row.get("group"):  # by its first member, whatever its number
                row["group"] = members.setdefault(row["group"], row["path"])
            if "label_quality" in row:
                row["score"] = str(round(1 - float(row.pop("label_quality")), 6))
            approach, coefficient = row.pop("approach", ""), row.pop("wise", "")
            if row.get("stage") == "finetune":  # such rows once had the approach and the coefficient in other columns
                row |= {"stage": "tune", "head": former(approach), "strength": coefficient}
            if row.get("stage") == "tune" and row["head"] == "auto":
                row["head"] = "finetune"
            key = ", ".join(former(row[k]) for k in keys) if keys else str(n)
            seen[key] += 1  # findings may name an image twice
            for column in row.keys() - NOT_COMPARED - set(keys):
                yield f"{key} ({seen[key]})", column, exact(row[column])


def leaves(document: Any, *names: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(Keys, value) of everything in a JSON document that is compared."""
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            if former(str(key)) not in NOT_COMPARED:
                yield from leaves(value, *names, former(str(key)))
    else:
        yield names, exact(document)


def former(name: str) -> str:
    """The earlier name; `p(cat)`, the column of a probability, is `cat`."""
    return RENAMED.get(name := re.sub(r"^p\((.*)\)$", r"\1", name), name)


def exact(value: Any) -> str:
    """A number as text that is equal if its bits are; other values by their earlier names."""
    with contextlib.suppress(TypeError, ValueError):
        return float(value).hex()
    return former(str(value))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "diff"])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="CHECKOUT, or RESULTS_A RESULTS_B")
    for option in ("--data", "--weights-dir", "--out"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--only", default="", help="steps whose name begins so, such as cats-dogs/")
    given = parser.parse_args()
    places = [p and p.resolve() for p in (*given.folders, given.data, given.weights_dir, given.out)]
    sys.exit(not (run(*places, only=given.only) if given.verb == "run" else diff(*given.folders)))


if __name__ == "__main__":
    main()
