"""Recipes: what the named ones set, files of one's own and what can be wrong with them, and options given beside them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart
from conftest import REPOSITORY
from headstart import Recipe, cli, read_recipe
from headstart.errors import RecipeError
from headstart.images.augment import Augment, parse_augment
from headstart.io.options import options_of
from headstart.training.recipe_files import FOLDER, LARGEST, describe, names

OPTIONS = options_of(Recipe)
SECTIONS = list(dict.fromkeys(option.section for option in OPTIONS))
PRETRAINED = ("kaggle-mobilenetv2", "mobilenetv2-dense32", "transfer", "resnet34-onecycle")
FROM_SCRATCH = ("scratch-cnn", "scratch-cnn-fixed", "augmented-cnn", "augmented-cnn-fixed")
KERAS_SHIFTS = "rotation=40,shift=0.2,shear=0.2,zoom=0.2,flip,fill=nearest"
# fmt: off
CNN = {
    "approach": "scratch", "backbone": "headstart_cnn", "image_size": 150, "resize": "squash", "normalize": "unit",
    "optimizer": "adam", "lr_scheduler": "constant", "batch_size": 32, "patience": 3, "val_size": 0.2,
}
STATED: dict[str, dict[str, Any]] = {
    "kaggle-mobilenetv2": {
        "approach": "head_sgd", "backbone": "mobilenetv2_100", "image_size": -1, "normalize": "unit", "loss": "binary",
        "augment": KERAS_SHIFTS, "monitor": "val_log_loss",
    },
    "mobilenetv2-dense32": {
        "approach": "head_sgd", "backbone": "mobilenetv2_100", "image_size": 160, "hidden_layer_sizes": "32", "loss": "binary",
        "optimizer": "rmsprop", "lr": 1e-4, "augment": "none", "monitor": "val_accuracy",
    },
    "scratch-cnn": {**CNN, "augment": "none", "epochs": 30, "loss": "softmax_twice"},
    "scratch-cnn-fixed": {**CNN, "augment": "none", "epochs": 30, "loss": "cross_entropy"},
    "augmented-cnn": {**CNN, "augment": KERAS_SHIFTS, "epochs": 50, "steps_per_epoch": 62, "loss": "softmax_twice"},
    "augmented-cnn-fixed": {**CNN, "augment": KERAS_SHIFTS, "epochs": 50, "steps_per_epoch": 0, "loss": "cross_entropy"},
    "transfer": {"approach": "head_sgd", "backbone": "auto", "image_size": 150, "patience": 1, "val_size": 0.2},
    "resnet34-onecycle": {
        "approach": "finetune", "backbone": "resnet34", "unfreeze": "all", "lr_scheduler": "onecycle", "warmup_ratio": 0.3,
        "optimizer": "adam", "lr": 0.01, "weight_decay": 1e-4, "clip_grad": 0.1, "epochs": 8, "val_size": 0.1425,
    },
}
# fmt: on
"""What the reference systems state, and what their usual values are."""


# Named recipes


def test_the_named_recipes_are_these() -> None:
    assert set(names()) == {"default", *STATED} == {"default", *PRETRAINED, *FROM_SCRATCH}


@pytest.mark.parametrize("name", STATED)
def test_a_named_recipe_has_the_settings_of_its_source(name: str) -> None:
    recipe = read_recipe(name)
    assert {option: getattr(recipe, option) for option in STATED[name]} == STATED[name]
    parse_augment(recipe.augment)


@pytest.mark.parametrize("name", names())
def test_a_recipe_file_is_small_and_says_where_it_comes_from(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    described = describe(name)
    assert len(text.splitlines()) < 75
    assert max(map(len, text.splitlines())) <= 127
    assert described.name == name
    assert described.text.count("\n") >= 2
    assert name == "default" or "\nSource: " in described.text
    assert all(0 < value < 1 for value in described.published.values() if not isinstance(value, str))


def test_the_default_written_out_is_the_default() -> None:
    assert read_recipe("default") == Recipe()
    assert list(describe("default").settings) == [f.name for f in fields(Recipe)]
    text = (FOLDER / "default.toml").read_text(encoding="utf-8")
    assert [title for title in SECTIONS if f"\n\n# {title}\n" in text] == SECTIONS


def test_repaired_recipes_differ_where_they_say() -> None:
    def differing(one: str, other: str) -> set[str]:
        return {n for n, value in read_recipe(one).as_dict().items() if value != read_recipe(other).as_dict()[n]}

    assert differing("scratch-cnn", "scratch-cnn-fixed") == {"loss"}
    assert differing("augmented-cnn", "augmented-cnn-fixed") == {"loss", "steps_per_epoch"}
    assert differing("scratch-cnn-fixed", "augmented-cnn-fixed") == {"augment", "epochs"}


def test_reading_recipes_imports_nothing_heavy() -> None:
    program = (
        "import sys, headstart\nheadstart.read_recipe('scratch-cnn', epochs=3)\n"
        "assert not {'torch', 'numpy', 'PIL', 'cyclopts'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Values


def test_options_are_changed_by_name() -> None:
    assert read_recipe("scratch-cnn", epochs=3, seed=7) == Recipe(
        **{**describe("scratch-cnn").settings, "epochs": 3, "seed": 7}
    )
    with pytest.raises(RecipeError) as caught:
        read_recipe("scratch-cnn", epoch=3)
    assert str(caught.value) == "'epoch' is not an option of a recipe.\n  Did you mean 'epochs' or 'approach'?"


def test_numbers_become_those_of_the_option() -> None:
    recipe = Recipe(lr=1, seed=np.int64(3), dropout=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(recipe.as_dict()))["seed"] == 3
    assert [type(value) for value in (recipe.lr, recipe.seed, recipe.dropout)] == [float, int, float]
    assert Recipe(hidden_layer_sizes=" 256, 64 ").hidden_sizes == (256, 64)
    assert Recipe().hidden_sizes == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "3"}, "epochs '3' cannot be used: expected a whole number.\n  Leave out the quotes."),
        ({"epochs": 3.5}, "epochs 3.5 cannot be used: expected a whole number."),
        ({"epochs": True}, "epochs True cannot be used: expected a whole number."),
        ({"lr": "fast"}, "lr 'fast' cannot be used: expected a number."),
        ({"lr": float("nan")}, "lr nan cannot be used: expected 0 to 100."),
        ({"weight_decay": -0.5}, "weight_decay -0.5 cannot be used: expected 0 to 10, or -1."),
        (
            {"hidden_layer_sizes": 32},
            "hidden_layer_sizes 32 cannot be used: expected text.\n  Put it in quotes: '32'.",
        ),
        (
            {"hidden_layer_sizes": "32,0"},
            "hidden_layer_sizes '32,0' cannot be used: expected sizes such as 128 or 256,64.",
        ),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes None cannot be used: expected text."),
        ({"unfreeze": "some"}, "unfreeze 'some' is not known: expected all, gradual, auto, or a number such as 3."),
        ({"wise_ft": "2"}, "wise_ft '2' cannot be used: expected auto or a number from 0 to 1."),
        (
            {"loss": "binnary"},
            "loss 'binnary' is not known: expected cross_entropy, binary, softmax_twice.\n  Did you mean 'binary'?",
        ),
        ({"image_size": 4}, "image_size 4 cannot be used: expected 8 to 4096 pixels, 0 or -1."),
        ({"image_size": -2}, "image_size -2 cannot be used: expected 8 to 4096 pixels, 0 or -1."),
        ({"test_size": 1.0}, "test_size 1.0 cannot be used: expected a fraction between 0 and 1, such as 0.2."),
        ({"seed": -1}, "seed -1 cannot be used: expected 0 or more."),
        ({"budget": "soon"}, "budget 'soon' is not a time: expected a number and s, m or h.\n  For example 2m or 2h."),
        ({"layer_decay": 0}, "layer_decay 0 cannot be used: expected 0.01 to 1."),
        ({"lr": 10**5000}, "lr (a number of thousands of digits) cannot be used: expected 0 to 100."),
        (
            {"optimizer": "adamm", "clip_grad": -1, "augment": 3},
            "3 options cannot be used.\n  augment 3 cannot be used: expected text. Put it in quotes: '3'.\n"
            "  optimizer 'adamm' is not known: expected adamw, adam, sgd, rmsprop. Did you mean 'adam' or 'adamw'?\n"
            "  clip_grad -1 cannot be used: expected 0 or more.",
        ),
    ],
)
def test_values_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**values)
    assert str(caught.value) == message


def valid(option: Any) -> st.SearchStrategy[Any]:
    """Values that an option may have, found by trying."""
    drawn = {
        int: st.integers(-2, 300),
        float: st.floats(0, 2),
        str: st.sampled_from(("auto", "none", "all", "flip", "32")),
    }

    def works(value: Any) -> bool:
        try:
            Recipe(**{option.name: value})
        except RecipeError:
            return False
        return True

    return drawn[option.kind].filter(works) | st.just(option.default)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional={option.name: valid(option) for option in OPTIONS}))
def test_a_recipe_survives_being_written_as_a_file(values: dict[str, Any]) -> None:
    recipe = Recipe(**values)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    folder = Path(os.environ["HEADSTART_CACHE"])
    file = folder / "mine.toml"
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()), encoding="utf-8")
    assert read_recipe(file) == recipe


# Files


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`mine.toml` in the current folder, to be written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.toml"


def refused(name_or_file: str | Path) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(name_or_file)
    return str(caught.value)


def test_a_file_is_read_by_its_path(mine: Path) -> None:
    mine.write_text(
        "\ufeff# Mine.\n#\n# For birds.\r\nepochs = 3\n\n[results.birds]\naccuracy = [0.9, 0.91]\n", encoding="utf-8"
    )
    (mine.parent / "plain").write_text("epochs = 4\n")
    assert read_recipe("mine.toml") == read_recipe(mine) == read_recipe("./mine.toml") == Recipe(epochs=3)
    assert read_recipe("./plain") == read_recipe(Path("plain")) == Recipe(epochs=4)
    described = describe("mine.toml")
    assert (described.name, described.text, described.settings) == ("mine", "Mine.\n\nFor birds.", {"epochs": 3})
    assert (described.published, described.results) == ({}, {"birds": {"accuracy": [0.9, 0.91]}})
    mine.write_text("")
    assert read_recipe(mine) == Recipe()


def test_an_unknown_name(mine: Path) -> None:
    known = ", ".join(names())
    assert refused("scratch-cn") == (
        f"recipe 'scratch-cn' is not known: expected {known}, or a file.\n"
        "  Did you mean 'scratch-cnn' or 'scratch-cnn-fixed'?\n"
        "  For a recipe of your own, give its path, such as ./mine.toml."
    )
    (mine.parent / "plain").write_text("epochs = 4\n")
    assert refused("plain") == (
        f"recipe 'plain' is not known: expected {known}, or a file.\n  For the file of that name write './plain'."
    )
    assert refused("").startswith("recipe '' is not known: expected ")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("max_lr", "lr"),
        ("learning_rate", "lr"),
        ("clip", "clip_grad"),
        ("wise", "wise_ft"),
        ("hidden", "hidden_layer_sizes"),
        ("validation_split", "val_size"),
        ("ema", "model_ema_decay"),
    ],
)
def test_an_earlier_or_another_librarys_name_leads_to_ours(name: str, ours: str, mine: Path) -> None:
    mine.write_text(f"{name} = 0.5\n")
    assert refused("mine.toml") == f"mine.toml: {name!r} is not an option of a recipe.\n  Did you mean {ours!r}?"


def test_a_file_with_problems_names_them_all(mine: Path) -> None:
    mine.write_text(
        "epoch = 3\nbatch_size = '32'\nunfreeze = 3\noptimizer = 'adamm'\nn_views = [1, 2]\nresults = 3\n"
        "[published]\nseed = 3\n[training]\nepochs = 3\n[wise_ft]\na = 1\n"
    )
    assert refused("mine.toml") == (
        "mine.toml: 9 options cannot be used.\n"
        "  'epoch' is not an option of a recipe. Did you mean 'epochs' or 'approach'?\n"
        "  batch_size '32' cannot be used: expected a whole number. Leave out the quotes.\n"
        "  unfreeze 3 cannot be used: expected text. Put it in quotes: '3'.\n"
        "  optimizer 'adamm' is not known: expected adamw, adam, sgd, rmsprop. Did you mean 'adam' or 'adamw'?\n"
        "  n_views [1, 2] cannot be used: expected a whole number.\n"
        "  results is a value, expected a table: [results].\n"
        "  seed is in [published]: options go at the top, before all tables.\n"
        "  [training] is not a table of a recipe: options go at the top, before all tables.\n"
        "  wise_ft {'a': 1} cannot be used: expected text."
    )
    mine.write_text("wise_ft = 0.5\n")
    assert refused("mine.toml") == "mine.toml: wise_ft 0.5 cannot be used: expected text.\n  Put it in quotes: '0.5'."
    mine.write_text("".join(f"option{n} = 1\n" for n in range(5000)))
    many = refused("mine.toml").splitlines()
    assert many[:2] == ["mine.toml: more than 40 options cannot be used.", "  'option0' is not an option of a recipe."]
    assert len(many) == 41


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"epochs: 3\n",
            "not TOML: Expected '=' after a key in a key/value pair (at line 1, column 7).\n  A line is: "
            "option = value; text in quotes, such as optimizer = 'adam'.",
        ),
        (
            b"backbone = resnet34\n",
            "not TOML: Invalid value (at line 1, column 12).\n  A line is: option = value; text in "
            "quotes, such as optimizer = 'adam'.",
        ),
        (b"epochs = " + b"[" * 100_000, "not TOML: nested too deeply."),
        (b"augment = 'caf\xe9'\n", "byte 14 is not UTF-8, expected TOML."),
        (b"#" * (LARGEST + 1), "larger than 1,000,000 bytes, expected a small text file."),
    ],
)
def test_a_file_that_is_no_recipe(mine: Path, data: bytes, message: str) -> None:
    mine.write_bytes(data)
    assert refused("mine.toml") == f"mine.toml: {message}"


def test_odd_files_give_errors_of_ours(mine: Path) -> None:
    for data in (
        b"epochs = 1" + b"0" * 5000,
        b"epochs = 0x" + b"f" * 5000,
        b"wise_ft." + b"a." * 3000 + b"b = 1",
        bytes(99),
    ):
        mine.write_bytes(data)
        assert refused("mine.toml").startswith("mine.toml: ")
        assert len(refused("mine.toml")) < 300


def test_a_file_that_is_not_there(mine: Path) -> None:
    mine.write_text("epochs = 3\n")
    assert refused("min.toml") == "min.toml: no such recipe file.\n  Did you mean 'mine.toml'?"
    assert refused("scratch-cnn.toml") == (
        "scratch-cnn.toml: no such recipe file.\n  Did you mean 'scratch-cnn' or 'scratch-cnn-fixed'?"
    )
    assert refused("nowhere/mine.toml") == f"{Path('nowhere/mine.toml')}: no such recipe file."
    assert refused(Path(".")) == ".: is a folder, expected a recipe file."
    assert refused("a" * 5000 + ".toml").startswith("a" * 5000 + ".toml: ")


# The command line


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.run(words)
    out, err = capsys.readouterr()
    return code, out, err


def recorded(run: Path) -> dict[str, Any]:
    """The recipe in a run folder."""
    return json.loads((run / "headstart.json").read_text(encoding="utf-8"))["provenance"]["recipe"]


def test_options_given_beside_a_recipe_win(
    mine: Path, photos: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(
        "approach = 'linear'\nbackbone = 'test_resnet.a'\nhead = 'ridge'\nseed = 5\nval_size = 0.3\nimage_size = 32\n"
    )
    words = ["train", str(photos), "--out", "run", "--weights-dir", str(tiny_weights), "--recipe", "mine.toml"]
    code, _, err = said([*words, "--head", "lda", "--seed", "0"], capsys)  # 0 is also what it is by default
    assert code == 0, err
    asked = Recipe("linear", "test_resnet.a", head="lda", val_size=0.3, image_size=32)
    assert recorded(Path("run")) == asked.as_dict()
    headstart.train(photos, out="again", recipe=read_recipe("mine.toml", head="lda", seed=0), weights=tiny_weights)
    first, second = (json.loads((mine.parent / run / "headstart.json").read_text()) for run in ("run", "again"))
    assert first["id"] == second["id"]


def made(words: str) -> Recipe:
    """The recipe that a command line asks for, made as the command makes it."""
    parts = shlex.split(words)
    _, bound, _ = cli.application(parts).parse_args(parts, exit_on_error=False, print_error=False)
    return cli.verb_arguments(cli.verb_function(parts[0]), bound.args, bound.kwargs)[1]["recipe"]


def test_every_option_can_be_given(mine: Path) -> None:
    everything = {option.name: option.default for option in OPTIONS}
    everything |= {
        "approach": "finetune",
        "image_size": -1,
        "hidden_layer_sizes": "64,32",
        "lr": 0.001,
        "unfreeze": "3",
    }
    everything |= {
        "augment": "flip,shift=0.2",
        "weight_decay": 0.0,
        "tta": "flip",
        "epochs": 12,
        "seed": 4,
        "wise_ft": "0.5",
    }
    words = " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in everything.items())
    assert made(f"train photos --out run {words}") == Recipe(**everything)
    assert made(f"train photos --out run --recipe resnet34-onecycle {words}") == Recipe(**everything)
    assert made("train photos --out run") == made("train photos --out run --recipe default") == Recipe()
    assert made("train photos --out run --recipe transfer --epochs 2") == read_recipe("transfer", epochs=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--recipe scratch-cnn --lr 500 --optimizer adm",
            "RecipeError: 2 options cannot be used.\n"
            "  optimizer 'adm' is not known: expected adamw, adam, sgd, rmsprop. Did you mean 'adam' or 'adamw'?\n"
            "  lr 500.0 cannot be used: expected 0 to 100.\n",
        ),
        (
            "--recipe mine.toml",
            "RecipeError: mine.toml: 'epoch' is not an option of a recipe.\n  Did you mean 'epochs' or 'approach'?\n",
        ),
    ],
)
def test_problems_are_said_before_any_work(
    mine: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text("epoch = 3\n")
    assert said(["train", "nowhere", "--out", "run", *words.split()], capsys) == (1, "", message)


def test_help_shows_the_options_in_their_sections(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(["train", "--help"], capsys)
    assert code == 0
    titles = [f"─ {title} ─" for title in SECTIONS]
    assert sorted(titles, key=out.index) == titles
    for option in OPTIONS:
        assert f" --{option.name.replace('_', '-')} " in out
    before, *parts = re.split("|".join(map(re.escape, titles)), out)
    assert "--recipe" in before
    assert [("--lr" in part, "--wise-ft" in part, "--seed" in part) for part in parts] == [
        *[(False, False, False)] * 2,
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


# Documentation

PAGE = REPOSITORY / "docs" / "recipes.md"


def cell(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def settings_table(recipes: tuple[str, ...]) -> str:
    """What the files set, one row an option, one column a recipe: docs/recipes.md must have it."""
    columns = [describe(name).settings for name in recipes]
    rows = [
        f"| `{o.name}` | " + " | ".join(cell(s.get(o.name)) for s in columns) + " |"
        for o in OPTIONS
        if any(o.name in s for s in columns)
    ]
    return "\n".join([f"| | {' | '.join(recipes)} |", "|---" * (len(recipes) + 1) + "|", *rows])


def published_table() -> str:
    """The figures of the sources, in per cent: docs/recipes.md must have it."""
    found = {name: describe(name).published for name in names() if describe(name).published}
    metrics = dict.fromkeys(
        key for table in found.values() for key, value in table.items() if not isinstance(value, str)
    )
    rows = [
        f"| {metric} | " + " | ".join(f"{100 * t[metric]:.2f}" if metric in t else "" for t in found.values()) + " |"
        for metric in metrics
    ]
    return "\n".join([f"| per cent | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|", *rows])


def results_table() -> str:
    """What the files say of `[results.DATA]`, lowest to highest: docs/recipes.md must have it, once there is something."""
    found = [(name, data, table) for name in names() for data, table in describe(name).results.items()]
    columns = dict.fromkeys(key for _, _, table in found for key, value in table.items() if isinstance(value, list))
    rows = [
        f"| {data} | {name} | " + " | ".join(" to ".join(f"{x:g}" for x in table.get(c, [])) for c in columns) + " |"
        for name, data, table in sorted(found, key=lambda row: row[1])
    ]
    return (
        "\n".join([f"| data | recipe | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|", *rows])
        if rows
        else ""
    )


@pytest.mark.parametrize(
    "table", [settings_table(PRETRAINED), settings_table(FROM_SCRATCH), published_table(), results_table()]
)
def test_the_tables_in_the_docs_are_those_of_the_files(table: str) -> None:
    assert table in PAGE.read_text(encoding="utf-8"), table


def test_the_docs_name_every_recipe_and_every_way_to_vary_images() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in names():
        assert f"](../src/headstart/training/recipes/{name}.toml)" in text
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (PAGE.parent / target).exists(), target
    examples = [
        word for row in re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE) for word in re.findall("`(.+?)`", row)
    ]
    varied = [parse_augment(word) for word in examples if word not in {option.name for option in OPTIONS}]
    known = {f.name for f in fields(Augment)} - {"rand_operations", "rand_magnitude"}
    assert {n for n in known for augment in varied if getattr(augment, n) != getattr(Augment(), n)} == known


def test_commands_in_the_docs_can_be_parsed() -> None:
    commands = re.findall(r"^    headstart (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command)
        cli.application(words).parse_args(words, exit_on_error=False, print_error=False)


def test_the_verbs_page_has_the_option() -> None:
    row = f"| `--recipe` | {cli.RECIPE_HELP} Named: {', '.join(names())}. |"
    assert row in (REPOSITORY / "docs" / "verbs.md").read_text(encoding="utf-8"), row
