"""The command line as a user meets it: help, exit codes, one JSON document, near names, Ctrl-C; and that docs cover it."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart
from conftest import PATIENCE, REPOSITORY, write_photos
from headstart import cli
from headstart.data.data_source import DataSource
from headstart.io.options import options_class, options_of, options_taken
from headstart.training.recipe import Recipe
from hub_server import TOKEN, serve
from kaggle_server import REDUX, kaggle_server
from tiny_export import SPEC, write_export, write_predicting_export

COMMAND = [sys.executable, "-m", "headstart"]
TEXT = {"capture_output": True, "text": True, "encoding": "utf-8", "check": False}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, warm_cache: Path) -> Path:
    """A run on `photos` with the tiny weights, for verbs that need one."""
    out = tmp_path_factory.mktemp("cli") / "run"
    shutil.copytree(warm_cache, out.parent / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(out.parent / "cache"))
        headstart.train(photos, out=out, weights=tiny_weights, recipe=Recipe(approach="linear"))
    return out


@pytest.fixture
def warm(own_cache: Path, warm_cache: Path) -> Path:
    """This test's own cache, with the tiny backbones' graphs in it."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    return own_cache


@pytest.fixture
def local_kaggle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Kaggle on this machine for the verbs that talk to it."""
    if request.node.callspec.params["verb"] not in ("kaggle", "submit"):
        yield
        return
    with kaggle_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.fixture
def local_hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub on this machine for the verb that uploads to it."""
    if request.node.callspec.params["verb"] != "push":
        yield
        return
    from huggingface_hub import constants

    for hub in serve(tmp_path / "hub"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield


def said(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line run in this process."""
    code = cli.run(shlex.split(words))
    out, err = capsys.readouterr()
    return code, out, err


# Help


def test_help_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys\nfrom headstart.cli import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'timm', 'openvino', 'PIL', 'scipy', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], **TEXT)
    assert (done.returncode, done.stderr) == (0, "")
    for verb, summary in cli.VERBS.items():
        assert verb in done.stdout
        assert summary.split()[0] in done.stdout
    assert done.stdout.rstrip().endswith("Example: headstart train photos --out run")


def test_importing_headstart_imports_nothing_heavy() -> None:
    program = "import sys, headstart\nassert not {'torch', 'numpy', 'PIL', 'cyclopts'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], **TEXT).returncode == 0


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_ends_with_its_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(f"{verb} --help", capsys)
    _, example = cli.help_and_example(cli.verb_function(verb))
    assert (code, err) == (0, "")
    assert out.rstrip().endswith(f"Example: {example}")
    assert example.startswith(f"headstart {verb}")
    assert "--json" in out
    assert "Raises" not in out
    assert "--empty-" not in out


@pytest.mark.parametrize(
    "usage",
    [
        "predict [OPTIONS] RUN PATHS...",
        "explain [OPTIONS] RUN PATHS...",
        "backbones [OPTIONS] [PATTERN]",
        "train --out PATH [OPTIONS] DATA",
        "demo [OPTIONS]",
    ],
)
def test_help_says_how_a_verb_is_called(usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(f"{usage.split()[0]} --help", capsys)
    assert (code, out.splitlines()[:2]) == (0, [f"Usage: headstart {usage}", ""])


@pytest.mark.parametrize("verb", cli.VERBS)
def test_summaries_are_the_first_sentences_of_the_docstrings(verb: str) -> None:
    text = " ".join(inspect.getdoc(cli.verb_function(verb)).split("\n\n")[0].split())
    assert text.removesuffix(" Example:").startswith(cli.VERBS[verb])


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_is_the_function_of_that_name(verb: str) -> None:
    assert getattr(headstart, verb) is cli.verb_function(verb)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_examples_can_be_parsed(verb: str) -> None:
    _, example = cli.help_and_example(cli.verb_function(verb))
    words = shlex.split(example)[1:]
    command, bound, _ = cli.application(words).parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == verb
    assert bound.arguments


# Exit codes and messages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "trian photos --out run",
            'headstart: Unknown command "trian". Did you mean "train"? Available commands: demo, check, split, '
            "backbones, embed, train, compare, evaluate, ...\n  `headstart --help` lists the commands.\n",
        ),
        (
            "train photos --out run --backbon resnet34",
            "headstart train: Unknown option: --backbon. Did you mean --backbone?\n"
            "  `headstart train --help` lists its options.\n",
        ),
        (
            "train photos --out run --learning-rate=0.1",
            "headstart train: Unknown option: --learning-rate. Did you mean --lr?\n"
            "  `headstart train --help` lists its options.\n",
        ),
        (
            "train photos --output run",
            "headstart train: Unknown option: --output. Did you mean --out?\n"
            "  `headstart train --help` lists its options.\n",
        ),
        (
            "predict run one.jpg --model resnet50",
            "headstart predict: Unknown option: --model.\n  `headstart predict --help` lists its options.\n",
        ),
        ("train photos", "headstart train: --out is missing.\n  `headstart train --help` lists its options.\n"),
        ("check", "headstart check: DATA is missing.\n  `headstart check --help` lists its options.\n"),
        (
            "check photos more",
            "headstart check: 'more' is an unexpected argument.\n  `headstart check --help` lists its options.\n",
        ),
        (
            "split photos --out split.csv --seed x",
            "headstart split: Invalid value for --seed: 'x' is not a whole number.\n"
            "  `headstart split --help` lists its options.\n",
        ),
    ],
)
def test_a_command_that_makes_no_sense_exits_with_2(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(words, capsys) == (2, "", message)


def test_a_folder_whose_name_begins_with_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "-my photos", classes=2, each=2)
    monkeypatch.chdir(tmp_path)
    code, out, err = said("check '-my photos'", capsys)
    assert (code, out) == (2, "")
    assert "\n  To name that file or folder, write './-my photos'.\n" in err
    for words in ("check './-my photos'", "check -- '-my photos'"):
        code, out, _ = said(words, capsys)
        assert code == 0
        assert out.startswith("4 files, 4 usable, 2 classes: class0 2, class1 2\n")


def test_our_own_errors_exit_with_1_and_a_message_only(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "check", str(tmp_path / "nowhere" / "photos")], **TEXT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"MissingData: {tmp_path / 'nowhere' / 'photos'}: there is no such folder or table.\n"
        f"  Check the spelling: {tmp_path} exists, {tmp_path / 'nowhere'} does not.\n"
    )


def test_a_path_in_a_folder_that_may_not_be_entered_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if os.access(closed, os.X_OK):
        pytest.skip("needs a user who may not enter every folder, such as root may")
    code, _, err = said(f"check {closed / 'photos'}", capsys)
    assert (code, err) == (
        1,
        f"PermissionError: {closed / 'photos'}: Permission denied.\n"
        "  Change the permissions of this path or of a folder above it, or run the command as another user.\n",
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("--version", capsys) == (0, f"headstart {headstart.__version__}\n", "")


# JSON


def json_commands(photos: Path, run: Path, out: Path, weights: Path) -> dict[str, str]:
    """A command line for each verb but the demo, which takes longest, and serve, which does not end; see their own tests."""
    one = photos / "class0" / "000.jpg"
    return {
        "check": f"check {photos}",
        "split": f"split {photos} --out {out / 'split.csv'}",
        "backbones": f"backbones --weights-dir {weights}",
        "embed": f"embed {photos} --weights-dir {weights} --out {out / 'features.safetensors'}",
        "train": f"train {photos} --weights-dir {weights} --approach linear --out {out / 'run'}",
        "compare": f"compare {photos} --weights-dir {weights} --recipes linear --out {out / 'comparison'}",
        "evaluate": f"evaluate {run} {photos} --out {out / 'evaluated'}",
        "predict": f"predict {run} {photos} {one} --out {out / 'predictions.csv'}",
        "export": f"export {run} --to hub --out {out / 'sampled'}",
        "verify": f"verify {out / 'exported'}",
        "explain": f"explain {run} {one} --out {out / 'explained'}",
        "report": f"report {run} --data {photos} --out {out / 'report.html'}",
        "sample": f"sample scenes {out / 'sampled'} --n 60 --size 32",
        "pack": f"pack {photos} --out {out / 'sampled'}",
        "bundle": f"bundle --weights-dir {weights} --out {out / 'bundle'}",
        "kaggle": f"kaggle {REDUX} --out {out / 'competition'}",
        "submit": f"submit {REDUX} {out / 'competition.csv'}",
        "push": f"push {run} anna/photos",
        "reproduce": f"reproduce {run} --weights-dir {weights}",
    }


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in ("demo", "serve")])
def test_json_is_one_document_on_stdout_and_documented(
    verb: str,
    photos: Path,
    run_folder: Path,
    tiny_weights: Path,
    warm: Path,
    local_kaggle: None,
    local_hub: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = json_commands(photos, run_folder, tmp_path, tiny_weights)[verb]
    (tmp_path / "competition.csv").write_text("id,label\n1,0.5\n")
    if verb == "verify":
        pytest.importorskip("onnxruntime", reason="needs the extra export")
        write_export(tmp_path / "exported", {"pixels": SPEC})
    code, out, _ = said(f"{words} --json", capsys)
    assert code == 0
    assert out.count("\n") == 1
    document = json.loads(out)
    section = sections(REPOSITORY / "docs" / "verbs.md")[verb]
    for key in document:
        assert f"`{key}`" in section, f"docs/verbs.md, section {verb}, does not explain {key}"
    shutil.rmtree(tmp_path / "sampled", ignore_errors=True)  # which is never written over
    code, out, _ = said(words, capsys)
    assert code == 0
    assert len(out.splitlines()) < 60
    assert max(map(len, out.replace(str(tmp_path), "/somewhere").splitlines())) < 240


def test_notes_go_to_stderr(photos: Path, tiny_weights: Path, warm: Path, tmp_path: Path) -> None:
    words = ["train", str(photos), "--weights-dir", str(tiny_weights), "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run([*COMMAND, *words, "--approach", "linear"], **TEXT)
    assert done.returncode == 0
    assert json.loads(done.stdout)["out"] == str(tmp_path / "run")
    assert "Head: " in done.stderr


def test_names_that_are_not_unicode_make_json_all_the_same(tmp_path: Path) -> None:
    try:
        write_photos(tmp_path / "photos", classes=2, each=2)
        os.rename(tmp_path / "photos" / "class1", os.fsencode(tmp_path / "photos") + b"/caf\xe9\nbar")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*COMMAND, "check", str(tmp_path / "photos"), "--json"], env=environment, **TEXT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == {"caf\udce9\nbar": 2, "class0": 2}
    done = subprocess.run([*COMMAND, "check", str(tmp_path / "photos")], env=environment, **TEXT)
    assert done.stdout.startswith("4 files, 4 usable, 2 classes: caf\\udce9\\nbar 2, class0 2\n")


def test_no_process_reports_what_is_used(
    tmp_path: Path, photos: Path, tiny_weights: Path, run_folder: Path, warm: Path
) -> None:
    """Importing OpenVINO would send an event from a child process, and leave a file in the home folder."""
    program = (
        "import sys\nfrom multiprocessing.process import BaseProcess\nstarted = []\n"
        "BaseProcess.start = lambda self: started.append(self)\n"
        "from headstart.cli import run\n"
        "assert run(['backbones', '--pool', '--offline']) == 0\n"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules and not started\n"
        f"assert run(['predict', {str(run_folder)!r}, {str(photos / 'class0' / '000.jpg')!r}]) == 0\n"
        "assert 'openvino' in sys.modules and 'torch' not in sys.modules\n"
        "assert 'openvino_telemetry' not in sys.modules and not started\n"
        f"assert run(['embed', {str(photos)!r}, '--image-size', '40', '--weights-dir', {str(tiny_weights)!r}]) == 0\n"
        "assert 'openvino_telemetry' not in sys.modules and not started"
    )
    outside = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run([sys.executable, "-c", program], env={**outside, "HOME": str(tmp_path)}, **TEXT)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("openvino*")) == []


@pytest.mark.parametrize(
    ("options", "compiled", "expected"),
    [
        ("approach='linear'", True, False),
        ("budget='10s'", True, False),
        ("approach='linear'", False, True),
        pytest.param("approach='finetune'", True, True, marks=pytest.mark.slow),
    ],
)
def test_torch_is_imported_ahead_only_where_it_will_be_needed(
    options: str, compiled: bool, expected: bool, own_cache: Path, tiny_weights: Path, warm: Path
) -> None:
    program = (
        "import sys, threading\nfrom pathlib import Path\nfrom headstart.training.recipe import Recipe\n"
        "from headstart import WeightsSource\nfrom headstart.pipeline.fit import resolve_backbones\n"
        f"recipe = Recipe(backbone='test_resnet.a', {options})\n"
        f"resolve_backbones(recipe, weights=WeightsSource(folder={str(tiny_weights)!r}))\n"
        "[t.join() for t in threading.enumerate() if t.name == 'import of torch']\n"
        "print('torch' in sys.modules)"
    )
    cache = warm if compiled else warm / "empty"
    environment = {**os.environ, "HEADSTART_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, **TEXT)
    assert (done.stdout, done.returncode) == (f"{expected}\n", 0), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_behind_stdout_is_an_error_of_ours() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "backbones"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert done.stderr.startswith("WriteError: stdout: No space left on device.\n")
    assert done.returncode == 1


# Ctrl-C


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups that a test can send Ctrl-C to")
def test_ctrl_c_promises_nothing_that_is_not_kept(tmp_path: Path) -> None:
    command = [*COMMAND, "sample", "scenes", str(tmp_path / "scenes"), "--n", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        while not any(tmp_path.iterdir()) and running.poll() is None:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        rest = running.stderr.read()
    assert (running.returncode, rest) == (130, "Stopped. Nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_error_and_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of `| head`. A process that a verb writes to, and that has ended, is one."""
    write_predicting_export(tmp_path / "export", {"pixels": SPEC})
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for words, code in (["backbones", "--offline"], 0), (["predict", "export", "bad.jpg"], 1):
        reading, writing = os.pipe()
        os.close(reading)
        ended = subprocess.run([*COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        os.close(writing)
        assert (ended.returncode, "NoImages: " in ended.stderr, "Traceback" in ended.stderr) == (
            code,
            bool(code),
            False,
        )

    def backbones() -> None:
        """List backbones. Example:

        headstart backbones
        """
        raise BrokenPipeError

    monkeypatch.setattr("headstart.verbs.backbones.backbones", backbones)
    error = "WriteError: A process that headstart was writing to has ended.\n  Run it again.\n"
    assert said("backbones", capsys) == (1, "", error)


def test_what_ctrl_c_leaves_is_said_of_verbs_that_there_are() -> None:
    assert set(cli.STOPPED) <= set(cli.VERBS)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups that a test can send Ctrl-C to")
def test_ctrl_c_stops_with_a_message_and_the_same_command_goes_on(
    tmp_path: Path, tiny_weights: Path, warm: Path
) -> None:
    data = write_photos(tmp_path / "photos", classes=2, each=150)
    command = [*COMMAND, "train", str(data), "--weights-dir", str(tiny_weights), "--out", str(tmp_path / "run")]
    command += ["--approach", "linear"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        first = running.stderr.readline()
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the workers as well
        rest = running.stderr.read()
    assert first.startswith("Leave-one-out log-loss on ")
    assert running.returncode in (130, -signal.SIGINT)  # a shell shows 130 for both
    assert rest.endswith(
        "Stopped. Work done so far (features, unfinished training) is kept: run the same command again to resume.\n"
    )
    assert "Traceback" not in rest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
    done = subprocess.run(command, **TEXT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "manifest.json").exists()


# Documentation


def sections(page: Path) -> dict[str, str]:
    """The text below each `## heading` of a Markdown page."""
    _, *parts = re.split(r"^## `?([\w ./-]+?)`?$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def argument_table(verb: str) -> str:
    """The table of a verb's arguments as docs/verbs.md must have it: made from the function's docstring, and from the fields
    of the dataclasses that it takes. Options of `Recipe` and of `DataSource` have tables of their own."""
    function = cli.verb_function(verb)
    listed = inspect.getdoc(function).partition("Args:\n")[2].partition("\nRaises:")[0]
    texts = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, flags=re.MULTILINE)
    signature = inspect.signature(function, eval_str=True).parameters
    rows = []
    for name, text in texts:
        cls = options_class(signature[name].annotation)
        if cls in (None, DataSource):
            shown = flag(name) if signature[name].kind is inspect.Parameter.KEYWORD_ONLY else name.upper()
            rows.append((shown, text))
        elif cls is not Recipe:
            rows += [(flag(option.name), option.text) for option in options_taken(cls, signature[name].annotation)]
    assert {name for name, _ in texts} == set(signature)
    listed = [f"| `{shown}` | {' '.join(text.split())} |" for shown, text in rows]
    return "\n".join(["| argument | meaning |", "|---|---|", *listed])


def source_table() -> str:
    """The table of the options of all verbs that take DATA as docs/verbs.md must have it."""
    rows = [f"| `{flag(o.name)}` | {o.text} |".replace("(cat|dog)", r"(cat\|dog)") for o in options_of(DataSource)]
    return "\n".join(["| option | meaning |", "|---|---|", *rows])


def option_table() -> str:
    """The table of recipe options as docs/verbs.md must have it: made from the dataclass and its texts."""
    rows = [f"| `{flag(option.name)}` | `{option.default}` | {option.text} |" for option in options_of(Recipe)]
    return "\n".join(["| option | default | what it does |", "|---|---|---|", *rows])


@pytest.mark.parametrize("verb", cli.VERBS)
def test_docs_have_a_section_for_each_verb(verb: str) -> None:
    section = sections(REPOSITORY / "docs" / "verbs.md")[verb]
    _, example = cli.help_and_example(cli.verb_function(verb))
    assert example in section
    assert f"headstart.{verb}(" in section
    assert argument_table(verb) in section, argument_table(verb)


def test_docs_have_every_option_of_a_recipe_and_of_the_data() -> None:
    page = (REPOSITORY / "docs" / "verbs.md").read_text(encoding="utf-8")
    assert option_table() in page
    assert source_table() in page, source_table()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_field_of_a_dataclass_of_options_can_be_given(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With all of its options at values of their kind, a command gives the verb what was meant."""
    signature = inspect.signature(cli.verb_function(verb), eval_str=True).parameters
    positional = [p for p in signature.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    words = [verb, *[p.name for p in positional], *(["--out=out"] if "out" in signature else [])]
    expected = {}
    for name, parameter in signature.items():
        cls = options_class(parameter.annotation)
        if cls is None or cls is Recipe:
            continue
        options = options_taken(cls, parameter.annotation)
        values = {o.field: {bool: True, int: 7, float: 7.5}.get(o.kind, f"{o.name} of it") for o in options}
        words += [flag(o.name) if o.kind is bool else f"{flag(o.name)}={values[o.field]}" for o in options]
        expected[name] = cls(name, **values) if parameter in positional else cls(**values)
    _, bound, _ = cli.application(words).parse_args(words, exit_on_error=False, print_error=False)
    args, given = cli.verb_arguments(cli.verb_function(verb), bound.args, bound.kwargs)
    assert {name: dict(zip(signature, args, strict=False)).get(name, given.get(name)) for name in expected} == expected


PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "embedded/README.md",
    *(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md")),
)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_in_the_docs_lead_somewhere(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset|href)=\"([^\"#]+)\"", text):
        link = target[0] or target[1]
        assert link.startswith("https://") or ((REPOSITORY / page).parent / link).exists(), link
    for file, title in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", text):
        linked = (REPOSITORY / page).parent / file if file else REPOSITORY / page
        titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert title in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, f"{file}#{title}"
    for module in re.findall(
        r"`((?:io|images|data|samples|model|evaluation|training|runs|kaggle_api|reports|pipeline|verbs)/[a-z0-9_/]+\.py)`",
        text,
    ):
        assert (REPOSITORY / "src" / "headstart" / module).exists(), module


@pytest.mark.parametrize("name", headstart.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    documented = inspect.getdoc(getattr(headstart, name)) or ""
    assert len(documented) > 20
    assert not documented.startswith(f"{name}(")  # what dataclasses write by themselves


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"^module 'headstart' has no attribute 'trian'$"):
        _ = headstart.trian
    assert dir(headstart) == sorted(headstart.__all__)


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.walk_packages(headstart.__path__, "headstart.")))
def test_examples_in_docstrings(name: str) -> None:
    if name.endswith("__main__"):
        return
    assert doctest.testmod(importlib.import_module(name)).failed == 0
