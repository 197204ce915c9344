"""`compare`: one split, a process a trial, what is killed is taken up again, figures with intervals, ties called ties."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file

import headstart
from headstart.data.data_source import DataSource
from headstart.data.splits import groups_hash, make_split, split_hash, write_split
from headstart.errors import MissingExtra, RecipeError, TrainingError, UnknownBackbone, WriteError
from headstart.evaluation.metrics import compute_metrics
from headstart.io.files import sha256_file
from headstart.io.processes import run_child
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.predictions import Predictions
from headstart.pipeline.compare_trials import _shares
from headstart.pipeline.comparison import FIGURES, ROW_COLUMNS, Comparison, ComparisonRow, advice, paired
from headstart.pipeline.trial_budget import Budget, run_trials
from headstart.pipeline.trial_configs import DEFAULT, trial_configs
from headstart.pipeline.trials import (
    TrialConfig,
    TrialContext,
    TrialResult,
    finished,
    run_trial,
    train_words,
    with_latency,
)
from headstart.runs.run_folder import RunFolder
from headstart.training.recipe import Recipe

CLASSES = ("cat", "dog")


class Made:
    """Two calls of the same comparison: in the first, one trial is killed; the second takes up the rest."""

    def __init__(self, folder: Path, photos: Path, weights: Path) -> None:
        self.out, self.photos, self.weights = folder / "comparison", photos, weights
        shutil.copytree(weights, folder / "weights")
        for name in ("broken.x.safetensors", "broken.x.json"):
            (folder / "weights" / name).write_text("{}", encoding="utf-8")
        (folder / "bad.toml").write_text("approach = 'linear'\nbackbone = 'broken.x'\n", encoding="utf-8")
        self.options = {
            "out": self.out,
            "recipes": f"linear,{folder / 'bad.toml'}",
            "backbones": "test_resnet.a,test_efficientnet",
            "weights": folder / "weights",
        }
        killer = threading.Thread(target=kill_train, args=("linear-test_resnet.a",))
        killer.start()
        self.first = headstart.compare(photos, **self.options)
        killer.join()
        self.written = written(self.out)
        self.second = headstart.compare(photos, **self.options)


def kill_train(name: str) -> None:
    """Kill the process that trains that trial, once there is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                words = child.cmdline()
                if "train" in words and any(word.endswith(name) for word in words):
                    child.kill()
                    return
        time.sleep(0.005)


def written(out: Path) -> dict[str, int]:
    """{run: when its manifest was written, in nanoseconds}."""
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("runs/*/manifest.json")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, warm_cache: Path) -> Made:
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(warm_cache, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        (folder / "here").mkdir()
        (folder / "here" / "queue.py").write_text("raise SystemExit('a module of the current folder was imported')")
        patch.chdir(folder / "here")
        return Made(folder, photos, tiny_weights)


def by_name(comparison: Comparison) -> dict[str, ComparisonRow]:
    return {row.name: row for row in comparison.rows}


# A whole comparison


def test_one_killed_and_one_broken_trial_do_not_lose_the_rest(made: Made) -> None:
    rows = by_name(made.first)
    assert next(iter(rows)) == "linear-test_efficientnet.b"  # failed ones come last
    killed, broken, good = (rows[n] for n in ("linear-test_resnet.a", "bad", "linear-test_efficientnet.b"))
    assert killed.error.startswith("killed by SIGKILL (probably out of memory)")
    assert broken.error.startswith(f"BadWeights: {made.options['weights'] / 'broken.x.'}")
    assert (good.error, good.pareto_optimal) == ("", True)
    assert made.first.rows[0] is good
    assert made.first.pairs == []
    assert made.first.advice == "Take linear-test_efficientnet.b: it is the only one that finished."
    assert "not finished: linear-test_resnet.a: killed by SIGKILL" in made.first.table()


def test_the_next_call_takes_up_what_is_finished(made: Made) -> None:
    rows = by_name(made.second)
    assert {name for name, row in rows.items() if row.error} == {"bad"}
    assert list(made.written) == ["linear-test_efficientnet.b"]
    assert written(made.out)["linear-test_efficientnet.b"] == made.written["linear-test_efficientnet.b"]
    before, after = by_name(made.first)["linear-test_efficientnet.b"], rows["linear-test_efficientnet.b"]
    assert (after.train_seconds, after.latency_ms, after.peak_memory_mb) == (
        before.train_seconds,
        before.latency_ms,
        before.peak_memory_mb,
    )


def test_trials_that_finished_earlier_are_named_with_their_share_of_the_budget() -> None:
    earlier = {"linear": TrialResult(budget="60s"), "scratch": TrialResult()}
    assert _shares(earlier) == "linear (60s), scratch (unknown)"


def test_all_trials_have_the_split_of_the_comparison(made: Made, photos: Path) -> None:
    split = (made.out / "split.csv").read_bytes()
    for run in made.out.glob("runs/*"):
        assert RunFolder(run).provenance.split_hash == made.second.split_hash
        assert [line.split(b",")[::2] for line in (run / "split.csv").read_bytes().splitlines()] == [
            line.split(b",")[::2] for line in split.splitlines()
        ]
    dataset = headstart.open_dataset(photos)
    sides = {row["path"]: row["split"] for row in csv.DictReader(split.decode().splitlines())}
    assert split_hash(replace(dataset, split=np.array([sides[p] for p in dataset.paths]))) == made.second.split_hash


def test_rows_are_those_of_the_run_folders(made: Made) -> None:
    with open(made.out / "comparison.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == ROW_COLUMNS
    assert [row["name"] for row in rows] == [row.name for row in made.second.rows]
    for row in rows[:2]:
        run = made.out / "runs" / row["name"]
        test = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]["overall"]
        for name in FIGURES:
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                assert float(row[name + end]) == test[name][key]
        assert int(row["file_bytes"]) == (run / "model.safetensors").stat().st_size
        assert 4 * int(row["parameters"]) <= int(row["file_bytes"])
        assert float(row["latency_ms"]) > 0
        assert float(row["train_seconds"]) > 0.1
        assert 50 < float(row["peak_memory_mb"]) < 3000
    bad = rows[-1]
    assert (bad["name"], bad["accuracy"], bad["parameters"], bad["pareto_optimal"]) == ("bad", "", "", "False")
    assert bad["error"].startswith("BadWeights: ")


def test_pairs_come_from_the_predictions_of_the_test_side(made: Made) -> None:
    one, two = (RunFolder(made.out / "runs" / row.name).predictions for row in made.second.rows[:2])
    accuracy, log_loss = made.second.pairs
    right = [(p.predicted == p.labels).mean() for p in (one, two)]
    assert (accuracy.metric, accuracy.n) == ("accuracy", made.second.images)
    assert accuracy.value == pytest.approx(right[0] - right[1])
    assert log_loss.value == pytest.approx(
        made.second.rows[0].figure("log_loss").value - made.second.rows[1].figure("log_loss").value, abs=1e-6
    )
    with open(made.out / "pairs.csv", encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    assert [float(row["p_holm"]) for row in kept] == [accuracy.p_holm, log_loss.p_holm]
    assert kept[0]["verdict"] == accuracy.verdict


def test_its_page_and_figures_are_written(made: Made) -> None:
    page = (made.out / "report.html").read_text(encoding="utf-8")
    assert made.second.advice in page
    assert f"headstart compare {made.photos} --out {made.out} --recipes linear," in page
    for row in made.second.rows:
        assert f"<bdi>{row.name}</bdi>" in page
    assert sorted(p.name for p in (made.out / "plots").iterdir()) == [
        f"{name}.{kind}"
        for name in ("differences-accuracy", "differences-log_loss", "latency", "training")
        for kind in ("png", "svg")
    ]


def test_json_frame_and_table_say_the_same(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(json.dumps(made.second.to_json(), allow_nan=False))
    frame = made.second.frame()
    assert list(frame.index) == [row["name"] for row in document["rows"]]
    assert frame["accuracy"].dtype == float
    assert math.isnan(frame.loc["bad", "accuracy"])
    for row in document["rows"][:2]:
        assert frame.loc[row["name"], "log_loss_high"] == row["log_loss_high"]
    table = made.second.table().splitlines()
    assert table[-1] == document["advice"]
    assert max(map(len, table)) < 240
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        MissingExtra, match=r"^pandas is not installed, but is needed for a DataFrame\.\n  pip install pandas$"
    ):
        made.second.frame()


def test_another_seed_is_another_comparison(made: Made, own_cache: Path, warm_cache: Path) -> None:
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    options = {**made.options, "out": made.out.parent / "seed", "recipes": "linear", "backbones": "test_resnet.a"}
    shutil.copytree(made.out, options["out"])
    again = headstart.compare(made.photos, **options, seed=5)
    assert again.split_hash != made.second.split_hash
    assert RunFolder(options["out"] / "runs/linear-test_resnet.a").provenance.seed == 5
    assert (options["out"] / "runs/linear-test_resnet.a.previous").is_dir()


def test_a_damaged_run_is_done_again(made: Made) -> None:
    place = TrialContext(
        DataSource(made.photos), made.out.parent / "damaged", WeightsSource(offline=True), "", made.second.split_hash
    )
    fingerprint = RunFolder(made.out / "runs/linear-test_resnet.a").provenance.data.fingerprint
    rows = RunFolder(made.out / "runs/linear-test_resnet.a").split
    place = replace(place, fingerprint=fingerprint, groups_hash=groups_hash(rows))
    shutil.copytree(made.out, place.out)
    candidate = TrialConfig("linear-test_resnet.a", "linear", Recipe(approach="linear", backbone="test_resnet.a"))
    kept = finished(candidate, place)
    assert kept is not None
    assert kept.seconds == by_name(made.second)[candidate.name].train_seconds
    assert finished(replace(candidate, recipe=replace(candidate.recipe, seed=1)), place) is None
    assert finished(replace(candidate, recipe=replace(candidate.recipe, budget="1h")), place) == kept
    assert finished(candidate, replace(place, fingerprint="other")) is None
    assert finished(candidate, replace(place, split_hash="other")) is None
    joined = groups_hash(row._replace(group=0) for row in rows)  # as with --group-from on sets of one's own
    assert finished(candidate, replace(place, groups_hash=joined)) is None
    place.record(candidate.name).write_text("{}", encoding="utf-8")
    without_record = finished(candidate, place)
    assert without_record is not None
    assert math.isnan(without_record.peak_memory_mb)
    (place.run(candidate.name) / "metrics.json").write_text("changed", encoding="utf-8")
    assert finished(candidate, place) is None


# What cannot work


def test_unknown_names_are_refused_before_any_work(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        RecipeError, match=r"^recipe 'linaer' is not known: expected auto, linear, .*\n  Did you mean 'linear"
    ):
        headstart.compare(photos, out=out, recipes="linaer,linear")
    with pytest.raises(RecipeError, match=r"\n  Did you mean 'scratch-cnn'"):
        headstart.compare(photos, out=out, recipes="scratch-cn")
    with pytest.raises(
        UnknownBackbone, match=r"^'test_resnett' is not a known backbone\.\n  Did you mean 'test_resnet"
    ):
        headstart.compare(
            photos,
            out=out,
            backbones="test_resnet.a, test_resnett",
            weights=WeightsSource(folder=tiny_weights, offline=True),
        )
    with pytest.raises(RecipeError, match=r"^recipes: 'linear' is named twice\."):
        headstart.compare(photos, out=out, recipes="linear,linear")
    with pytest.raises(RecipeError, match=r"^budget 'soon' is not a time"):
        headstart.compare(photos, out=out, budget="soon")
    with pytest.raises(RecipeError, match=r"^budget 20 is not a time"):
        headstart.compare(photos, out=out, budget=20)  # type: ignore[arg-type]
    assert not out.exists()


def test_a_budget_that_is_too_small_says_what_fits(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        headstart.compare(photos, out=tmp_path / "out", recipes="linear", budget="1s", weights=tiny_weights)
    assert str(raised.value) == (
        "budget '1s' is too small: even the fastest trial takes about 4 s here.\n"
        "  --budget 10s is probably enough. Features computed so far are cached."
    )


def test_shares_of_a_recipe_that_cannot_be_those_of_all_trials_are_named(
    tmp_path: Path, photos: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "more.toml").write_text("approach = 'linear'\nval_size = 0.3\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^budget '1s' is too small"):
        recipes = f"linear,{tmp_path / 'more.toml'}"
        headstart.compare(photos, out=tmp_path / "out", recipes=recipes, budget="1s", weights=tiny_weights)
    assert (
        "All trials use one split, with val_size 0.2 and test_size 0.2; those of more are not used." in caplog.messages
    )


def test_places_that_cannot_take_a_comparison(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(WriteError, match=r"holds files that headstart did not write"):
        headstart.compare(photos, out=tmp_path / "mine")
    with pytest.raises(WriteError, match=r"is in the way: a folder would be written there"):
        headstart.compare(photos, out=tmp_path / "mine" / "thesis.txt")
    with pytest.raises(WriteError, match=r"is inside the data"):
        headstart.compare(photos, out=photos / "comparison")


@pytest.mark.parametrize("trials", [False, True])
def test_a_folder_with_a_split_of_the_users_own_is_left_alone(tmp_path: Path, photos: Path, trials: bool) -> None:
    headstart.split(photos, out=tmp_path / "split.csv", seed=7)
    if trials:
        (tmp_path / "trials").mkdir()
        (tmp_path / "trials" / "first.json").write_text('{"seconds": 1}')
    before = (tmp_path / "split.csv").read_bytes()
    with pytest.raises(WriteError) as raised:
        headstart.compare(photos, out=tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: holds files that headstart did not write, so it is left alone.\n"
        "  Choose another --out, or an empty folder."
    )
    assert (tmp_path / "split.csv").read_bytes() == before


@pytest.mark.parametrize("there", [("trials/",), ("trials/", "split.csv")])
def test_a_comparison_that_was_stopped_before_its_first_trial_goes_on(
    there: tuple[str, ...], tmp_path: Path, photos: Path, tiny_weights: Path
) -> None:
    for name in there:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(RecipeError, match=r"^budget '1s' is too small"):
        headstart.compare(photos, out=tmp_path, recipes="linear", budget="1s", weights=tiny_weights)


# Trials


def test_candidates_cheap_ones_first_and_recipes_keep_their_own_backbone() -> None:
    recipes = {
        "tune": Recipe(approach="finetune"),
        "mine": Recipe(approach="linear", backbone="x"),
        "linear": Recipe(approach="linear"),
    }
    names = [c.name for c in trial_configs(recipes, ["a", "b"], seed=3)]
    assert names == ["mine", "linear-a", "linear-b", "tune-a", "tune-b"]
    sizes = [Recipe(approach="linear", val_size=0.1), Recipe(approach="linear", val_size=0.1, test_size=0.0)]
    for chosen, expected in ((sizes[:1], (0.1, 0.2)), (sizes[1:], (0.2, 0.2)), (sizes, (0.2, 0.2))):
        configs = trial_configs({str(n): recipe for n, recipe in enumerate(chosen)}, [], seed=3)
        assert {(c.recipe.val_size, c.recipe.test_size) for c in configs} == {expected}
    for name in ("linear-a", "Linear-A"):  # some disks do not tell these apart
        with pytest.raises(RecipeError) as caught:
            trial_configs({"linear": recipes["linear"], name: recipes["mine"]}, ["a", "b"], seed=3)
        assert str(caught.value) == (
            f"recipes: 'linear' and {name!r} give two trials called {name!r}.\n  Rename the file of one of them."
        )
    default = trial_configs(DEFAULT, ["a", "b"], seed=3)
    assert [(c.name, c.recipe.approach, c.recipe.backbone) for c in default] == [
        ("linear-a", "linear", "a"),
        ("linear-b", "linear", "b"),
        ("auto", "auto", "auto"),
    ]
    assert {c.recipe.seed for c in default} == {3}


def test_every_option_reaches_the_child() -> None:
    from headstart import cli

    recipe = Recipe(
        approach="linear",
        image_size=-1,
        hidden_layer_sizes="128,64",
        augment="flip,shift=0.2",
        lr=1e-4,
        seed=4,
        budget="7s",
    )
    place = TrialContext(
        DataSource(Path("-photos")), Path("/out"), WeightsSource(folder="weights", offline=True), "", ""
    )
    words = train_words(recipe, TrialConfig("name", "name", recipe), place)
    _, bound, _ = cli.application(words).parse_args(words, exit_on_error=False, print_error=False)
    given = {name: bound.arguments["kwargs"][name] for name in bound.arguments.get("kwargs", {})} or dict(
        bound.arguments
    )
    given |= given.pop("kwargs", {})
    for name, value in recipe.as_dict().items():
        if value != getattr(Recipe(), name):
            assert given[name] == value
    assert (given["split"], given["out"]) == (Path("/out/split.csv"), Path("/out/runs/name"))
    assert given["offline"] is True


def test_a_child_that_takes_too_long_is_stopped_and_its_memory_is_its_own() -> None:
    program = "import time\nx = bytes(range(250)) * 600_000\nprint('here', flush=True)\ntime.sleep(600)"
    ballast = np.ones(60_000_000)
    ended = run_child([sys.executable, "-c", program], 5.0)
    assert (ended.stopped, ended.stdout) == (True, "here\n")
    assert 5 < ended.seconds < 300
    if sys.platform == "linux":
        assert 150 < ended.peak_memory_mb < 300
    assert len(ballast)


def test_a_child_that_does_not_listen_is_killed() -> None:
    program = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(600)"
    ended = run_child([sys.executable, "-c", program], 0.7, grace=0.5)
    assert ended.stopped
    assert ended.seconds < 300


def test_a_trial_out_of_time_says_so(tmp_path: Path, photos: Path) -> None:
    candidate = TrialConfig("x", "linear", Recipe(approach="linear"))
    place = TrialContext(DataSource(photos), tmp_path, WeightsSource(offline=True), "", "")
    outcome = run_trial(candidate, place, share=42.0, limit=0.05)
    assert outcome.interrupted
    assert outcome.error == "stopped after 0 s: its share of the budget was spent"
    assert json.loads(place.record("x").read_text(encoding="utf-8"))["budget"] == "42s"
    assert run_trial(candidate, place, share=13.0, limit=0.05).budget == "13s"


def test_what_the_budget_does_not_reach_is_a_row_with_a_reason(tmp_path: Path, photos: Path) -> None:
    clock = Budget("1s", clock=iter([0.0, 10.0]).__next__)
    place = TrialContext(DataSource(photos), tmp_path, WeightsSource(offline=True), "", "")
    found = run_trials([TrialConfig("x", "linear", Recipe())], place, clock, some=False)
    assert found == {"x": TrialResult(error="not started: the budget is spent", interrupted=True)}


def test_a_budget_that_is_not_firm_leaves_nothing_out(
    tmp_path: Path, photos: Path, tiny_weights: Path, own_cache: Path, warm_cache: Path
) -> None:
    """By a clock that goes fifty times as fast there is time for nothing. `test_demo.py` has trainings without time."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    dataset = make_split(headstart.open_dataset(photos), seed=0)
    write_split(tmp_path / "split.csv", dataset, [sha256_file(photos / path) for path in dataset.paths])
    place = TrialContext(DataSource(photos), tmp_path, WeightsSource(folder=tiny_weights, offline=True), "", "")
    candidate = TrialConfig("x", "linear", Recipe(approach="linear", backbone="test_resnet.a"))
    clock = Budget("1s", clock=lambda: 50 * time.monotonic(), firm=False)
    time.sleep(0.1)
    assert clock.left() < 0
    assert run_trials([candidate], place, clock, some=False)["x"].error == ""


def test_latency_needs_no_more_images_than_fit_into_a_command(made: Made, tmp_path: Path) -> None:
    name = "linear-test_efficientnet.b"
    shutil.copytree(made.out / "runs" / name, tmp_path / "runs" / name)
    place = TrialContext(DataSource(made.photos), tmp_path, WeightsSource(), "", "")
    candidate = TrialConfig(name, "linear", Recipe(approach="linear"))
    images = [image for image in sorted(made.photos.glob("*/*.jpg")) for _ in range(2_000)]
    assert len(images) > 80_000
    outcome = with_latency(TrialResult(seconds=1.0), candidate, place, images)
    assert 0 < outcome.latency_ms < 60_000
    assert json.loads(place.record(name).read_text(encoding="utf-8"))["latency_ms"] == outcome.latency_ms


def test_a_command_that_cannot_be_started_costs_a_warning(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = TrialContext(DataSource(photos), tmp_path, WeightsSource(), "", "")
    outcome, candidate = TrialResult(seconds=1.0), TrialConfig("x", "linear", Recipe(approach="linear"))
    assert with_latency(outcome, candidate, place, [Path("long" * 100_000)]) is outcome
    assert caplog.messages == ["x: its latency could not be measured: Argument list too long"]


# Pairs and advice


def predictions(paths: list[str], right: list[bool], sure: float = 3.0) -> Predictions:
    """Predictions of images that are all cats."""
    logits = np.array([[sure, 0.0] if r else [0.0, sure] for r in right], np.float32)
    return Predictions(tuple(paths), CLASSES, logits, np.zeros(len(paths), np.int64))


def test_pairs_are_matched_by_path_and_missing_images_are_named() -> None:
    paths = [f"{i:02}.jpg" for i in range(20)]
    right = [i % 4 > 0 for i in range(20)]
    shuffled = np.random.default_rng(0).permutation(20)
    one = predictions(paths, right)
    two = predictions([paths[i] for i in shuffled], [right[i] for i in shuffled])
    found, notes = paired({"one": one, "two": two}, seed=0)
    assert ([(d.value, d.p, d.verdict) for d in found], notes) == ([(0.0, 1.0, "tie")] * 2, [])
    three = predictions(paths[2:], right[2:])
    found, notes = paired({"one": one, "three": three}, seed=0)
    assert [(d.n, d.value) for d in found] == [(18, 0.0)] * 2
    assert notes == ["three has no prediction of 00.jpg, 01.jpg: left out of its pairs."]


def row(name: str, predicted: Predictions, latency_ms: float, size: int = 1_000_000) -> ComparisonRow:
    metrics = compute_metrics(predicted.logits, predicted.labels, CLASSES, resamples=50)
    return ComparisonRow(name, "linear", name, metrics, 10.0, 100.0, size // 4, size, latency_ms, False, "")


def advised(*cases: tuple[str, list[bool], float]) -> str:
    made = {name: predictions([str(i) for i in range(len(right))], right) for name, right, _ in cases}
    rows = sorted(
        (row(name, made[name], latency) for name, _, latency in cases), key=lambda r: -r.metrics["accuracy"].value
    )
    taken, why = advice(rows, paired(made, seed=0)[0])
    assert why.startswith(f"Take {taken}: ")
    return why


def test_advice() -> None:
    right = [i >= 3 for i in range(100)]
    tied = [3 <= i < 99 for i in range(100)]
    worse = [i >= 40 for i in range(100)]
    assert advised(("slow", right, 30.0), ("quick", tied, 10.0)) == (
        "Take quick: nothing beats it in accuracy, and it is 3.0x faster than slow, with which it ties."
    )
    assert advised(("slow", right, 30.0), ("bad", worse, 10.0)) == "Take slow: it beats the other in accuracy."
    # A tenth of the time is noise.
    assert advised(("one", right, 10.0), ("other", tied, 9.0)) == (
        "Take one: it has the highest accuracy, though that is a tie with all others."
    )
    assert advised(("one", tied, 9.0), ("other", right, 10.0)).startswith("Take other: ")
    assert advised(("slow", right, 30.0), ("bad", worse, 1.0), ("quick", right, 10.0)).startswith(
        "Take quick: nothing beats it in accuracy, and it "
    )
    assert advised(("quick", right, 10.0), ("slow", tied, 30.0)) == (
        "Take quick: it has the highest accuracy, though that is a tie with all others."
    )
    assert advised(("slow", right, 30.0), ("bad", worse, 1.0), ("less", [i >= 20 for i in range(100)], 40.0)) == (
        "Take slow: it beats all others in accuracy."
    )
    # Thirty points fewer on 10 images are a tie, but no reason to take the quicker one.
    few, fewer = [True] * 10, [i < 7 for i in range(10)]
    assert advised(("slow", few, 30.0), ("quick", fewer, 10.0)).startswith("Take slow: ")
    failed = replace(row("x", predictions(["a"], [True]), 1.0), metrics=None, error="RecipeError: no")
    assert advice([failed], []) == ("", "The trial did not finish: see the error.")
    assert advice([failed, failed], []) == ("", "None of 2 trials finished: see the errors.")
    result = Comparison("out", [failed], [], "", "The trial did not finish: see the error.", [], 9, "", 1.0)
    with pytest.raises(TrainingError, match=r"^The trial did not finish: see the error\.$"):
        result.check()  # as the command does, after its result
    replace(result, taken="x").check()


def judged(name: str, logit_N: list[float], latency: float) -> tuple[ComparisonRow, Predictions]:
    """A trial on two images in turn, a cat and a dog, with these logits in favour of the right class."""
    labels_N = np.arange(len(logit_N)) % 2
    logits_NK = np.zeros((len(logit_N), 2), np.float32)
    logits_NK[np.arange(len(logit_N)), labels_N] = logit_N
    made = Predictions(tuple(map(str, range(len(logit_N)))), CLASSES, logits_NK, labels_N)
    return row(name, made, latency), made


def taken_of(*cases: tuple[str, list[float], float]) -> str:
    made = {case[0]: judged(*case) for case in cases}
    rows = sorted((found for found, _ in made.values()), key=lambda r: -r.metrics["accuracy"].value)
    return advice(rows, paired({name: predicted for name, (_, predicted) in made.items()}, seed=0)[0])[1]


SURE, UNSURE = [-1.0] * 3 + [3.0] * 97, [-1.0] * 4 + [0.5] * 96


def test_a_trial_that_another_beats_in_log_loss_is_not_recommended() -> None:
    """Nothing beats the quick one in accuracy, but its probabilities are clearly worse."""
    assert taken_of(("slow", SURE, 30.0), ("quick", UNSURE, 10.0)) == (
        "Take slow: it has the highest accuracy, though that is a tie with all others."
    )
    doubted = [*UNSURE[:2], 0.5, 0.5, *UNSURE[4:]]  # the most accurate one
    assert taken_of(("doubted", doubted, 30.0), ("sure", SURE, 10.0)) == (
        "Take sure: it ties with doubted in accuracy, and beats it in log-loss, and is 3.0x faster."
    )
    assert taken_of(("doubted", doubted, 10.0), ("sure", SURE, 30.0)) == (
        "Take sure: it ties with doubted in accuracy, and beats it in log-loss."
    )
    poor = [-1.0] * 40 + [9.0] * 60
    assert taken_of(("doubted", doubted, 30.0), ("poor", poor, 1.0)).startswith("Take doubted: ")


def test_a_speed_that_is_not_known_is_no_reason() -> None:
    right, tied = [i >= 3 for i in range(100)], [3 <= i < 99 for i in range(100)]
    said = "Take one: it has the highest accuracy, though that is a tie with all others; the speed of {} is not known, "
    for latencies, unknown in (((math.nan, 9.0), "one"), ((9.0, math.nan), "two"), ((math.nan, math.nan), "one, two")):
        why = advised(("one", right, latencies[0]), ("two", tied, latencies[1]))
        assert why == said.format(unknown) + "so it did not count."
    better = [-0.5] * 4 + [3.0] * 96
    assert taken_of(("one", SURE, math.nan), ("two", better, 9.0)) == (
        "Take two: it ties with one in accuracy and has the lower log-loss; the speed of one is not known, so it did "
        "not count."
    )
    worse = [i >= 40 for i in range(100)]
    assert advised(("one", right, 10.0), ("bad", worse, math.nan)) == "Take one: it beats the other in accuracy."


def test_a_recipes_own_network_takes_the_weights_that_are_given() -> None:
    """Where a folder has several weights of one network, its bare name is ambiguous."""
    recipes = {"mine": headstart.Recipe(approach="head_sgd", backbone="test_resnet")}
    for given, expected in (
        (["test_resnet.a", "test_efficientnet.b"], "test_resnet.a"),
        (["test_resnet.a", "test_resnet.c"], "test_resnet"),
        (["test_efficientnet.b"], "test_resnet"),
    ):
        (found,) = trial_configs(recipes, given, 0)
        assert (found.name, found.recipe.backbone) == ("mine", expected)


@pytest.mark.slow
def test_a_trial_is_done_again_when_the_weights_it_names_are_others(
    tmp_path: Path, photos: Path, tiny_weights: Path
) -> None:
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    options = {"recipes": "linear", "backbones": "test_resnet.a", "weights": weights, "budget": "5m"}
    first = headstart.compare(photos, out=tmp_path / "out", **options)
    file = weights / "test_resnet.a.safetensors"
    tensors = {k: v + np.float32(0.05) if v.dtype == np.float32 else v for k, v in load_file(file).items()}
    save_file(tensors, file)
    second = headstart.compare(photos, out=tmp_path / "out", **options)
    fresh = headstart.compare(photos, out=tmp_path / "fresh", **options)
    losses = [found.rows[0].values()["log_loss"] for found in (first, second, fresh)]
    assert losses[0] != losses[1] == losses[2]
