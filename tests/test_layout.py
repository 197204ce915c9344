"""The shape of the package: imports flow one way, two modules write files, heavy parts are imported where they are used.

`docs/design.md` shows the drawing that is made here; after a change that is meant, paste the new one there.
"""

from __future__ import annotations

import ast
import graphlib
import re
import textwrap
from collections import Counter
from collections.abc import Iterator

import pytest

import headstart
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "headstart"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}

ORDER = (
    *("errors", "io", "evaluation", "images", "samples", "data", "model", "training", "runs", "kaggle_api", "reports"),
    *("exporters", "pipeline", "serving", "scale", "verbs", "estimator", "cli"),
)
"""A part may import itself and what stands before it."""
FRONT = ("__init__.py", "__main__.py")

HEAVY = {
    *(
        "torch",
        "torchvision",
        "timm",
        "captum",
        "jinja2",
        "sklearn",
        "scipy",
        "openvino",
        "pyarrow",
        "pandas",
        "matplotlib",
    ),
    *("rich", "cyclopts", "huggingface_hub", "safetensors", "platformdirs"),
}
TRAINERS = (
    "prepare",
    "batches",
    "bf16_conv",
    "finetune",
    "loop",
    "mixing",
    "optim",
    "passes",
    "shared_passes",
    "follower",
)
HEAVY_ALLOWED = {
    ("estimator.py", "sklearn"),
    *((f"model/backbones/{name}.py", package) for name in ("networks", "cut_network") for package in ("torch", "timm")),
    ("model/backbones/stages.py", "torch"),
    *((f"training/{name}.py", "torch") for name in TRAINERS),
}
"""Modules that nothing imports at its top unless it is one of them: they come with the first step of a training."""

LONGEST = 560


def part_of(module: str) -> str:
    """`images` for images/decode.py, `errors` for errors.py."""
    return module.partition("/")[0].removesuffix(".py")


def own_imports(tree: ast.AST) -> set[str]:
    """Modules of headstart that a module imports, wherever in it, as dotted names without `headstart.`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "headstart"):
            assert not node.level, "imports are absolute"
            inner = (node.module or "").removeprefix("headstart").removeprefix(".")
            found |= {inner} if inner else {alias.name for alias in node.names} - {"__version__"}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("headstart.") for a in node.names if a.name.startswith("headstart.")}
    return found


def drawing() -> str:
    """One line a part: what it imports, in the order of the flow."""
    arrows: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        if name not in FRONT:
            arrows.setdefault(part_of(name), set()).update(module.split(".")[0] for module in own_imports(tree))
    width = max(map(len, arrows))
    lines = []
    for part in ORDER:
        others = [other for other in ORDER if other in arrows.get(part, set()) - {part}]
        if part in arrows:
            lines.append(f"{part:<{width}}  <-  {' '.join(others)}".rstrip(" <-"))
    return "\n".join(lines)


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(name) for name in SOURCES if name not in FRONT} <= set(ORDER)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - set(FRONT)))
def test_imports_flow_one_way(name: str) -> None:
    part = part_of(name)
    allowed = set(ORDER[: ORDER.index(part) + 1])
    imported = {module.split(".")[0] for module in own_imports(TREES[name])}
    assert imported <= allowed, f"{name} imports {', '.join(sorted(imported - allowed))}"


def test_no_class_name_occurs_twice() -> None:
    """Neither with nor without an underscore; nor that of an alias of types, such as `Box = tuple[int, int, int, int]`."""
    names = [n.name for tree in TREES.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    assigned = (n.targets[0] for tree in TREES.values() for n in tree.body if isinstance(n, ast.Assign))
    names += [n.id for n in assigned if isinstance(n, ast.Name) and re.fullmatch("_?(?:[A-Z]+[a-z]+)+", n.id)]
    assert [name for name, n in Counter(name.strip("_") for name in names).items() if n > 1] == []


def test_no_module_name_occurs_twice() -> None:
    stems = [name.rpartition("/")[2] for name in SOURCES if not name.endswith(("__init__.py", "__main__.py"))]
    assert [stem for stem, n in Counter(stems).items() if n > 1] == []


def test_no_part_has_the_name_of_a_public_function() -> None:
    """Importing `headstart.NAME` as a package would put it into the place of the function `headstart.NAME`."""
    assert {part_of(name) for name in SOURCES if "/" in name} & set(headstart.__all__) == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for name, tree in TREES.items()
    }
    graphlib.TopologicalSorter({name: own_imports(tree) for name, tree in modules.items()}).prepare()


def test_the_drawing_in_the_docs_is_the_real_one() -> None:
    assert drawing() in (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8"), drawing()


# What runs when a module is imported


def imported_at_once(tree: ast.AST) -> Iterator[str]:
    """Packages that importing the module imports: not those inside functions, nor those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (name for child in node.orelse for name in imported_at_once(ast.Module([child], [])))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_once(node)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_heavy_packages_are_imported_where_they_are_used(name: str) -> None:
    heavy = {package for package in imported_at_once(TREES[name]) if package in HEAVY}
    assert {package for package in heavy if (name, package) not in HEAVY_ALLOWED} == set()


# Writing

WRITERS = {
    *("write_text", "write_bytes", "touch", "save", "savez", "savez_compressed", "savetxt", "tofile", "save_file"),
    *("to_csv", "to_parquet", "write_table", "symlink_to", "hardlink_to", "rename", "mkdir", "makedirs", "mkstemp"),
}
"""Methods and module functions that write or make files, whatever they are called on."""


def writes(node: ast.Call) -> bool:
    """Whether a call opens, makes, moves or writes a file, as far as its text shows."""
    called, arguments = ast.unparse(node.func), [*node.args, *(k.value for k in node.keywords)]
    texts = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if called == "os.open":
        flags = " ".join(map(ast.unparse, arguments[1:]))
        return any(flag in flags for flag in ("O_WRONLY", "O_RDWR", "O_CREAT")) and "os.devnull" not in ast.unparse(
            node
        )
    if called == "open" or called.endswith((".open", ".memmap", "ZipFile", "TarFile")):
        return any(len(text) <= 3 and set(text) & set("wax+") for text in texts)
    if called in ("shutil.which", "shutil.disk_usage"):  # these two only look
        return False
    if called.startswith(("shutil.", "tempfile.", "os.replace", "os.rename", "os.link", "os.symlink")):
        return True
    return isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS


def writing_calls(tree: ast.AST) -> list[str]:
    """The text of all such calls."""
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and writes(node)]


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"io/files.py", "io/folders.py"}))
def test_only_two_modules_write_files(name: str) -> None:
    assert writing_calls(TREES[name]) == []


def test_the_search_for_writing_finds_it() -> None:
    bad = """
        open(p, "w"); open(p, mode="a+b"); p.open("xb"); p.write_text("x"); np.save(p, a); os.replace(a, b)
        shutil.copy(a, b); os.open(p, os.O_WRONLY | os.O_CREAT); image.save(p); tempfile.mkdtemp(); np.memmap(p, mode="r+")
    """
    good = """
        open(p); open(p, "rb"); p.open("rb"); np.memmap(p, np.uint8, "r"); os.open(os.devnull, os.O_WRONLY)
        p.read_text(); shutil.which(name)
    """
    lines = [call for line in bad.strip().splitlines() for call in line.strip().split("; ")]
    assert [writing_calls(ast.parse(line)) != [] for line in lines] == [True] * 11
    assert writing_calls(ast.parse(textwrap.dedent(good))) == []


# Taste that a test can see


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_modules_are_introduced_and_not_too_long(name: str) -> None:
    assert len(SOURCES[name].splitlines()) <= LONGEST
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_nothing_is_left_open_or_swallowed(name: str) -> None:
    for word in ("TODO", "FIXME", "NotImplementedError", "pragma: no cover"):
        assert word not in SOURCES[name]
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: except without a type"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (broad and isinstance(node.body[0], ast.Pass)), f"line {node.lineno}: caught and ignored"
