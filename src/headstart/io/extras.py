"""Extras: packages that only some commands need, and the one error that names what to install.

    require("Fine-tuning", "torch", "timm")    raises MissingExtra if one of them is not installed

Without extras, headstart is for machines that predict, evaluate and check: OpenVINO runs the networks. Each extra adds the
packages of one job. A module that imports such a package calls `require` first, as soon as it is known that the user
needs it: a verb should say what is missing before it spends minutes on other work.

Costs: under a millisecond; nothing is imported. When not to use it: for what every installation has.
"""

from __future__ import annotations

from importlib.util import find_spec

from headstart.errors import MissingExtra

EXTRAS = {
    "train": ("captum", "matplotlib", "sklearn", "timm", "torch", "torchvision"),
    "parquet": ("pyarrow",),
    "cloud": ("obstore",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "int8": ("nncf",),
    "ray": ("ray",),
    "serve": ("granian", "prometheus_client", "starlette"),
}
"""Extra -> the modules that it installs, besides those of a smaller extra (`parquet` is a part of `train`)."""

PROJECTS = {"prometheus_client": "prometheus-client", "sklearn": "scikit-learn"}
"""Modules whose package has a different name."""


def is_installed(*modules: str) -> bool:
    """Return whether all these modules can be imported, without importing them."""
    return not _missing(modules)


def require(what: str, *modules: str, hint: str = "") -> None:
    """Raise `MissingExtra` unless all the modules can be imported.

    `what` is the thing that needs them, in the singular: an option, a file, a backbone. `hint` is an alternative, shown
    after the install command.
    """
    missing = _missing(modules)
    if missing:
        names = [PROJECTS.get(name, name) for name in missing]
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        verb = "is" if len(names) == 1 else "are"
        ways = "\n".join(filter(None, [install_command(*missing), hint]))
        raise MissingExtra(f"{what} needs {listed}, which {verb} not installed here.", hint=ways)


def install_command(*modules: str) -> str:
    """Return the command that installs modules. It works in any folder, wherever headstart came from: pip finds it installed.

    >>> install_command("torch"), install_command("onnx", "timm")
    ("pip install 'headstart[train]'", "pip install 'headstart[export,train]'")
    """
    extras = sorted({extra for extra, inside in EXTRAS.items() if set(modules) & set(inside)})
    return f"pip install 'headstart[{','.join(extras)}]'"


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if not _is_found(name)]


def _is_found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # a finder that refuses it; a module that is blocked in sys.modules
        return False
