"""The command line: each verb is the function of that name, its options are its parameters, its help is its docstring.

A parameter that is a dataclass of options (`io.options`) becomes one option per field.

Results go to stdout, as text or (`--json`) as one JSON document; notes and progress go to stderr. Exit codes: 0 done,
1 a `HeadstartError` (message without traceback), 2 an invalid command line, 130 stopped by Ctrl-C.

Only the requested verb is imported, so help is fast: `headstart --help` imports neither torch nor numpy.
"""

from __future__ import annotations

import atexit
import importlib
import inspect
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from headstart.errors import HeadstartError, WriteError
from headstart.io.options import Option, options_class, options_taken
from headstart.training import ranks

VERBS = {
    "demo": "Show everything in two minutes: render images, compare three approaches, find flaws.",
    "check": "Check every image: damaged files, copies, leaks, odd formats, unbalanced classes.",
    "split": "Split a dataset into train, val and test: stratified, seeded, with copies of an image in one set.",
    "backbones": "List backbones: those with weights on this machine; with --all or a pattern, all that timm knows.",
    "embed": "Compute feature vectors of all images with a frozen backbone, and cache them.",
    "train": "Train a classifier on a folder of labelled images: checked, split, calibrated, tested.",
    "compare": "Compare approaches and backbones on one split within a total budget, and recommend one.",
    "evaluate": "Evaluate a trained classifier on labelled images: the test set if the data has split folders, else all.",
    "predict": "Predict the class of images. Predictions are keyed by path; unreadable images are listed.",
    "export": "Export a classifier to ONNX and OpenVINO, from pixels to calibrated probabilities.",
    "explain": "Explain predictions: probabilities, a heat map, and the nearest training images.",
    "report": "Write the report of a run again: metrics, plots, mistakes with heat maps, suspected labels, copies.",
    "sample": "Render a sample dataset: six classes of scenes in train and test folders, with planted flaws.",
    "pack": "Pack images into tars of ten thousand, with an index: for buckets, and for folders with too many files.",
    "bundle": "Collect weights and requirements into a folder or a zip for an offline machine.",
    "serve": "Serve predictions over HTTP on this machine, with a page to try them, until stopped.",
    "verify": "Check an export on this machine: its files, then each sample image step by step in every runtime.",
    "kaggle": "Download a Kaggle competition or dataset, unpack it, and find the labels; with --train, write a submission.",
    "submit": "Submit a file to a Kaggle competition, and wait for its score.",
    "push": "Upload a classifier to the Hugging Face hub, with a model card that has its metrics.",
    "reproduce": "Train again from a run folder's recipe, split and seed, and compare every prediction.",
}
"""The verbs with the first sentence of their docstrings (a test compares them), so that help need not import them."""

NOT_ALLOWED = "  Change the permissions of this path or of a folder above it, or run the command as another user."
KEPT = "Work done so far (features, unfinished training) is kept: run the same command again to resume."
STOPPED = {
    "bundle": "Nothing was written.",
    "kaggle": "Downloads and training so far are kept: run the same command again to resume.",
    "export": "Nothing was written.",
    "push": "The repository has all files of this commit, or none.",
    "sample": "Nothing was written.",
    "submit": "Your submissions page on Kaggle shows whether the file arrived.",
}
"""What Ctrl-C leaves behind, for the verbs where `KEPT` does not apply."""

TOGETHER = ("train", "reproduce")
"""The verbs that several processes, started by torchrun, run together; rank 0 speaks for all."""

OUT_NAMES = ("dest", "o", "outdir", "output", "output_dir", "output_path", "save_dir")
"""What other tools call `--out`."""

RECIPE_HELP = "Name of a recipe, or a TOML file: a set of training options; options on the command line override it."
OFFLINE_HELP = "Make no outgoing connections; URLs of buckets are refused."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `headstart` command line and end the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name that the terminal cannot show is not an error
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("headstart").setLevel(logging.INFO)
    _leave(run(words))


def _leave(code: int) -> NoReturn:
    """End the process without the interpreter's teardown, which takes over a second once torch is imported."""
    with suppress(OSError):  # already reported, and reflected in the exit code
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()  # temporary folders
    os._exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if ranks.size() > 1 and _asked(words) in TOGETHER:
        from headstart.training.shared_task import run_together

        return run_together(lambda: _run_alone(words))
    return _run_alone(words)


def _run_alone(words: Sequence[str]) -> int:
    try:
        return _run(words)
    except KeyboardInterrupt:
        print(f"Stopped. {STOPPED.get(_asked(words) or '', KEPT)}", file=sys.stderr)
        return 130


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Refuse URLs of stores while the block runs, in this process and in those that it starts."""
    before = os.environ.get("HEADSTART_OFFLINE")
    if wanted:
        os.environ["HEADSTART_OFFLINE"] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ["HEADSTART_OFFLINE"]
        elif wanted and before is not None:
            os.environ["HEADSTART_OFFLINE"] = before


def _run(words: Sequence[str]) -> int:
    from cyclopts import CycloptsError

    if (empty := _empty_value(words)) is not None:
        print(_usage(words, f"{empty} is empty.", "In a script: is a variable not set?"), file=sys.stderr)
        return 2
    try:
        application(words)(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(_usage_message(error, words), file=sys.stderr)
        return 2
    except HeadstartError as error:
        with suppress(BrokenPipeError):  # stderr may be what was closed
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        if error.filename is None:
            raise
        print(f"PermissionError: {os.fsdecode(error.filename)}: {error.strerror}.\n{NOT_ALLOWED}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _write_no_more()
    return 0


def application(words: Sequence[str]) -> Any:
    """Return the cyclopts application, with the verb in `words` imported and the others as names only."""
    from cyclopts import App

    from headstart import __version__

    app = App(
        name="headstart",
        help="Put a new head on a pretrained backbone, and know how far to trust it.",
        help_epilogue="Example: headstart train photos --out run",
        help_format="plaintext",
        version=f"headstart {__version__}",
        suppress_keyboard_interrupt=False,  # `run` has a message for it
    )
    asked = _asked(words)
    for position, (verb, summary) in enumerate(VERBS.items()):
        if verb == asked:
            function = verb_function(verb)
            text, example = help_and_example(function)
            command = _printing(function, text)
            about = {"help_epilogue": f"Example: {example}", "help_format": "plaintext"}
            app.command(command, name=verb, usage=_usage_line(verb, command), **about)
        else:
            app.command(_named_only(verb), name=verb, help=summary, sort_key=position)
    return app


def _asked(words: Sequence[str]) -> str | None:
    return next((word for word in words if word in VERBS), None)


def _empty_value(words: Sequence[str]) -> str | None:
    """The option that has an empty value, or 'An argument'; None if no value is empty. As a path, an empty value would mean
    the current folder; as the value of an option, its default.

    >>> _empty_value(["train", "", "--out", "run"]), _empty_value(["train", "photos", "--classes="])
    ('An argument', '--classes')
    """
    for before, word in zip(["", *words], words, strict=False):
        if not word:
            return before if before.startswith("--") else "An argument"
        if word.startswith("--") and word.partition("=")[1:] == ("=", ""):
            return word.removesuffix("=")
    return None


def _usage_message(error: Any, words: Sequence[str]) -> str:
    """Say what is wrong with a command line, and which `--help` to read. `error` is a `CycloptsError`."""
    from cyclopts import MissingArgumentError, UnknownOptionError, UnusedCliTokensError

    error.verbose = False
    message = " ".join(str(error).split())
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.names[0]
        message = f"{name} needs a value." if name in words else f"{name} is missing."
        unknown = next((word for word in error.unused_tokens or () if _usual_option(word) == name), "")
        message = _did_you_mean(unknown, name) if unknown else message
    elif isinstance(error, UnknownOptionError) and (word := error.token.keyword):
        option = _usual_option(word)
        if any(option in argument.names for argument in error.argument_collection):
            message = _did_you_mean(word, option)
    elif isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        message = f"{error.unused_tokens[0]!r} is an unexpected argument."
    dashed = next((word for word in words if word.startswith("-") and os.path.exists(word)), None)
    return _usage(words, message, f"To name that file or folder, write {'./' + dashed!r}." if dashed else "")


def _usual_option(word: str) -> str:
    """Return the option that other tools call `word`, such as --lr for --learning-rate=0.1; '' if there is none."""
    from headstart.training.recipe import usual_name

    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    option = "out" if name in OUT_NAMES else usual_name(name)
    return f"--{option.replace('_', '-')}" if word.startswith("-") and option else ""


def _did_you_mean(word: str, option: str) -> str:
    return f"Unknown option: {word.partition('=')[0]}. Did you mean {option}?"


def _usage(words: Sequence[str], message: str, hint: str) -> str:
    """A message on a command line, with a hint and which `--help` to read."""
    asked = _asked(words)
    lists = f"`headstart {asked} --help` lists its options." if asked else "`headstart --help` lists the commands."
    return f"{f'headstart {asked}' if asked else 'headstart'}: " + "\n  ".join(filter(None, [message, hint, lists]))


def verb_function(verb: str) -> Callable[..., Any]:
    """Import and return the function of a verb."""
    function: Callable[..., Any] = getattr(importlib.import_module(f"headstart.verbs.{verb}"), verb)
    return function


def help_and_example(function: Callable[..., Any]) -> tuple[str, str]:
    """Return a verb's docstring without its example, and the example."""
    text = inspect.getdoc(function) or ""
    before, _, after = text.partition("Example:\n")
    example, _, rest = after.strip().partition("\n")
    return f"{before.rstrip()}\n{rest}".partition("\nRaises:")[0], example.strip()


def _printing(function: Callable[..., Any], text: str) -> Callable[..., None]:
    """Turn a verb into a command: add `--json`, print the result, replace option dataclasses by their fields."""
    from cyclopts import Parameter

    def command(*args: Any, as_json: bool = False, needless: bool = False, **kwargs: Any) -> None:
        with _offline(needless or kwargs.get("offline", False)):
            args, kwargs = verb_arguments(function, args, kwargs)
            try:
                result = function(*args, **kwargs)
            except BrokenPipeError as error:  # not that of stdout, which `_say` and `--help` write to
                raise WriteError("A process that headstart was writing to has ended.", hint="Run it again.") from error
        _say(_document(result.to_json()) if as_json else result.table())
        result.check()

    signature = inspect.signature(function, eval_str=True)
    spread = {options.parameter.name: options for options in _spread(function)}
    parameters = [
        option
        for p in signature.parameters.values()
        for option in (spread[p.name].options() if p.name in spread else [_as_option(p)])
    ]
    as_option = Parameter(
        name="--json", negative="", show_default=False, help="Print one JSON document on stdout and nothing else."
    )
    parameters.append(_keyword("as_json", bool, False, as_option))
    if not any(p.name == "offline" for p in parameters):  # scripts may pass it to every verb
        as_option = Parameter(name="--offline", negative="", show_default=False, help=OFFLINE_HELP)
        parameters.append(_keyword("needless", bool, False, as_option))
    parameters.sort(key=lambda p: p.kind)  # positional ones first: an argument may add options
    command.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = text
    command.__name__ = function.__name__
    return command


def _usage_line(verb: str, command: Callable[..., None]) -> str:
    """Return how a command is called: what it requires, and its arguments by name, where cyclopts writes [ARGS...]."""
    words = ["Usage: headstart", verb]
    positional = []
    for p in inspect.signature(command).parameters.values():
        name = p.name.upper()
        if p.kind is inspect.Parameter.KEYWORD_ONLY:
            words += [f"--{p.name.replace('_', '-')} PATH"] if p.default is inspect.Parameter.empty else []
        elif p.kind is inspect.Parameter.VAR_POSITIONAL:
            positional.append(f"{name}...")
        else:
            positional.append(name if p.default is inspect.Parameter.empty else f"[{name}]")
    return " ".join([*words, "[OPTIONS]", *positional])


def verb_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a verb's arguments, with its option dataclasses rebuilt from the options of its command."""
    for options in _spread(function):
        args, given = options.gathered(args, given)
    return args, given


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _write_no_more()
    except OSError as error:  # such as a full disk behind `> FILE`
        raise WriteError(f"stdout: {error.strerror}.", hint="The results are in the folder given by --out.") from error


def _write_no_more() -> None:
    """Discard what would be written to stdout: `| head` closed the pipe, which is not an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _document(value: Any) -> str:
    """Return one line of JSON; all non-ASCII is escaped if stdout cannot write it (say, a non-Unicode file name)."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def _as_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Convert a parameter of a verb to a parameter of its command."""
    from cyclopts import Parameter

    if parameter.annotation is bool:
        negative = f"--no-{parameter.name.replace('_', '-')}" if parameter.default is True else ""
        return parameter.replace(annotation=Annotated[bool, Parameter(negative=negative, show_default=False)])
    if parameter.annotation is int:
        parameter = parameter.replace(annotation=Annotated[int, Parameter(converter=_whole_number)])
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:  # in Python also images in memory
        return parameter.replace(annotation=Path)
    if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return parameter.replace(kind=inspect.Parameter.POSITIONAL_ONLY)
    return parameter.replace(annotation=Annotated[parameter.annotation, Parameter(negative="")])  # no --empty-NAME


def _whole_number(kind: Any, tokens: Sequence[Any]) -> int:
    """Convert a word to a whole number; cyclopts itself would round. Raises `ValueError`."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number.") from None


def _keyword(name: str, kind: Any, default: Any, parameter: Any) -> inspect.Parameter:
    """Return an option of a command. `parameter` is a `cyclopts.Parameter`."""
    annotation = Annotated[kind, parameter]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@dataclass(frozen=True)
class _Spread:
    """A parameter of a verb that is a dataclass of options.

    If it is positional, as DATA is, the argument is the field without a default; if it is a recipe, `--recipe` names
    the one that the options modify.
    """

    parameter: inspect.Parameter
    cls: type
    position: int | None

    @property
    def fields(self) -> tuple[Option, ...]:
        """The fields of the dataclass that the verb accepts."""
        return options_taken(self.cls, self.parameter.annotation)

    def options(self) -> list[inspect.Parameter]:
        """Return one option per field, grouped under the titles of their sections."""
        from cyclopts import Group, Parameter

        options = []
        if self.position is not None:
            options.append(self.parameter.replace(annotation=Path, kind=inspect.Parameter.POSITIONAL_ONLY))
        if self.parameter.name == "recipe":
            options.append(_keyword("recipe", str, "default", Parameter(help=_recipe_help())))
        titles = list(dict.fromkeys(field.section for field in self.fields if field.section))
        for field in self.fields:
            looks: dict[str, Any] = {"negative": "", "show_default": False} if field.kind is bool else {}
            looks |= {"converter": _whole_number} if field.kind is int else {}
            if field.section:
                looks["group"] = Group(field.section, sort_key=titles.index(field.section))
            options.append(_keyword(field.name, field.kind, field.default, Parameter(help=field.text, **looks)))
        return options

    def gathered(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a verb's arguments with this one built. cyclopts passes on only options that were given."""
        values = {field.field: given.pop(field.name) for field in self.fields if field.name in given}
        if self.position is not None:
            built = self.cls(args[self.position], **values)
            return (*args[: self.position], built, *args[self.position + 1 :]), given
        if self.parameter.name == "recipe":
            from headstart.training.recipe_files import read_recipe

            return args, {**given, "recipe": read_recipe(given.pop("recipe", "default"), **values)}
        return args, {**given, self.parameter.name: self.cls(**values)}


def _spread(function: Callable[..., Any]) -> list[_Spread]:
    """Return the parameters of a verb that are dataclasses of options."""
    spread = []
    for position, parameter in enumerate(inspect.signature(function, eval_str=True).parameters.values()):
        cls = options_class(parameter.annotation)
        if cls is not None:
            by_position = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            spread.append(_Spread(parameter, cls, position if by_position else None))
    return spread


def _recipe_help() -> str:
    from headstart.training.recipe_files import names

    return f"{RECIPE_HELP} Named recipes: {', '.join(names())}."


def _named_only(verb: str) -> Callable[..., None]:
    def command() -> None:
        raise AssertionError(f"{verb} was not imported")

    return command
