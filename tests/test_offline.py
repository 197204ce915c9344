"""`--offline` opens no socket, and neither does anything else that was given its weights as files.

Each verb runs as a user runs it, in a process in which every way to the network raises; compiled networks are made there
too, so that torch, timm and OpenVINO do all that they would do on a first run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import PATIENCE
from headstart.cli import VERBS

FORBIDDEN = """
import json, os, sys

attempts = []

def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg",
                 "socket.bind", "urllib.Request", "http.client.connect"):
        attempts.append(f"{event} {[arg for arg in args if isinstance(arg, (str, int, tuple))]}")
        raise OSError(f"a test forbids {event}")

sys.addaudithook(forbid)
from headstart.cli import run
codes = []
for words in json.loads(sys.stdin.read()):
    os.environ["HEADSTART_CACHE"] = words.pop(0)
    before = len(attempts)
    print("\\n$", *words, file=sys.stderr)
    codes.append([words[0], run(words), attempts[before:]])
print("\\n" + json.dumps(codes))
"""


def without_network(commands: list[list[str]], tmp_path: Path) -> tuple[list[Any], str]:
    """Run command lines (their cache folder first) in one process without network: [verb, exit code, attempts], stderr."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "empty-hub")}
    ended = subprocess.run(
        [sys.executable, "-c", FORBIDDEN],
        input=json.dumps(commands), env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr


LINEAR = ["--approach", "linear"]


def all_verbs(
    cache: Path, out: Path, photos: Path, weights: Path, *more: str, options: Sequence[str]
) -> list[list[str]]:
    """A command line for each verb with `more` words, with `options` for the training."""
    run, image = str(out / "run"), str(photos / "class0" / "000.jpg")
    given = ["--weights-dir", str(weights), *more]
    commands = [
        ["train", str(photos), "--out", run, *given, *options],
        ["embed", str(photos), "--out", str(out / "f.safetensors"), *given],
        ["evaluate", run, str(photos), *more],
        ["predict", run, image, "--json", *more],
        ["explain", run, image, "--out", str(out / "explained"), *more],
        ["report", run, "--out", str(out / "report.html"), *more],
        ["check", str(photos), *more],
        ["split", str(photos), "--out", str(out / "split.csv"), *more],
        ["backbones", *given],
        ["sample", "scenes", str(out / "sampled"), "--n", "60", "--size", "32", *more],
        ["pack", str(photos), "--out", str(out / "packed"), *more],
        ["bundle", "--out", str(out / "bundle.zip"), *given],
        ["reproduce", run, *given],
        ["compare", str(photos), "--out", str(out / "both"), "--recipes", "linear", *given],
    ]
    if options == LINEAR:  # an export costs seconds, and is the same for any run
        commands += [["export", run, "--out", str(out / "export")], ["verify", str(out / "export")]]
    return [[str(cache), *words] for words in commands]


@pytest.mark.slow
def test_no_verb_opens_a_socket(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    commands = []
    for name, more, options in (
        ("offline", ["--offline"], ["--epochs", "1"]),  # of fine-tuning, and all that comes before it
        ("given", [], LINEAR),
    ):  # both with an empty cache
        place = (tmp_path / f"{name}-cache", tmp_path / name)
        commands += all_verbs(*place, photos, tiny_weights, *more, options=options)
    answers, stderr = without_network(commands, tmp_path)
    elsewhere = {"demo", "kaggle", "push", "serve", "submit"}  # test_demo.py, test_serve.py; the others need a network
    assert {verb for verb, _, _ in answers} == set(VERBS) - elsewhere
    for verb, code, attempts in answers:
        assert (verb, code, attempts) == (verb, 0, []), stderr
    graphs = list((tmp_path / "offline-cache" / "graphs").glob("*.graph"))
    assert len(graphs) == 3, graphs  # two backbones and a trunk; they were made there, by torch, timm and OpenVINO


def test_offline_without_any_weights_the_embedded_backbone_is_used(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "weights").mkdir()
    linear = ["train", str(photos), "--offline", "--approach", "linear", "--out"]
    commands = [
        [*linear, str(tmp_path / "run")],
        [*linear, str(tmp_path / "other"), "--weights-dir", str(tmp_path / "weights")],
    ]
    answers, stderr = without_network([[str(tmp_path / "cache"), *words] for words in commands], tmp_path)
    assert [(code, attempts) for _, code, attempts in answers] == [(0, []), (0, [])], stderr
    for where in ("on this machine", f"in {tmp_path / 'weights'} or the hub's cache"):
        assert stderr.count(f"No weights {where}: using the small, weak built-in backbone.") == 1


def test_offline_a_download_that_is_needed_is_refused_in_plain_words(tmp_path: Path, photos: Path) -> None:
    commands = [
        ["train", str(photos), "--out", str(tmp_path / "run"), "--offline", "--backbone", "resnet18.a1_in1k"],
        ["embed", str(photos), "--offline", "--backbone", "resnet18"],
        ["kaggle", "ada/cats", "--offline"],
        ["submit", "cats", str(photos / "class0" / "000.jpg"), "--offline"],
    ]
    commands.append(["embed", str(photos), "--backbone", "resnet18.a1_in1k"])  # not offline: what the watch should see
    answers, stderr = without_network([[str(tmp_path / "cache"), *words] for words in commands], tmp_path)
    (_, code, attempts) = answers.pop()
    assert code == 1
    assert any("127.0.0.1" in attempt for attempt in attempts), attempts  # where the tests' hub is said to be
    assert [(code, attempts) for _, code, attempts in answers] == [(1, [])] * 4, stderr
    assert "Traceback" not in stderr
    needed = (
        "MissingWeights: resnet18.a1_in1k: its weights are not on this machine, and offline mode downloads nothing.\n"
    )
    assert stderr.count(needed) == 2
    assert stderr.count("or run once without --offline.") == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_offline(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from headstart.cli import run

    assert run([verb, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert re.search(r"--offline Make no outgoing connections[;. (]", words), words
