"""Which modules an image, or a dataset, passes through in a verb of headstart.

    python benchmarks/walk.py predict RUN IMAGE
    python benchmarks/walk.py train DATA --out RUN --approach linear --weights-dir weights

It runs the verb and lists every module of the package that a call enters from another module, in order, and every call
from a lower part of the package to a higher one (by the order of imports in docs/design.md). The only such calls should be
of functions and generators that were passed down. Tracing makes the run several times as slow.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import headstart
from headstart import cli

PACKAGE = Path(headstart.__file__).parent
ORDER = (
    "errors",
    "io",
    "evaluation",
    "images",
    "samples",
    "data",
    "model",
    "training",
    "runs",
    "kaggle_api",
    "reports",
    "pipeline",
    "verbs",
    "estimator",
    "cli",
)


class Walk:
    """The modules entered so far, in order, and calls from a lower part to a higher one."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.up: Counter[tuple[str, str]] = Counter()
        self.steps: Counter[tuple[str, str]] = Counter()

    def watch(self, frame: FrameType, event: str, _: object) -> None:
        """A profile function (`sys.setprofile`)."""
        if event != "call" or frame.f_code.co_name == "<module>":
            return
        callee, caller = module_of(frame), calling_module(frame.f_back)
        if callee is None or caller is None or callee == caller:
            return
        if callee not in self.entered:
            self.entered.append(callee)
        self.steps[caller, callee] += 1
        if rank(callee) > rank(caller):
            self.up[caller, callee] += 1


def module_of(frame: FrameType) -> str | None:
    """`pipeline/fit.py` for a frame of that file; None for other packages."""
    file = frame.f_code.co_filename
    return Path(file).relative_to(PACKAGE).as_posix() if file.startswith(str(PACKAGE)) else None


def calling_module(frame: FrameType | None) -> str | None:
    """The module of the package that called, skipping frames of other packages."""
    while frame is not None:
        if (found := module_of(frame)) is not None:
            return found
        frame = frame.f_back
    return None


def rank(module: str) -> int:
    """The position of a module's part in the order of imports."""
    part = module.partition("/")[0].removesuffix(".py")
    return ORDER.index(part) if part in ORDER else len(ORDER)


def main() -> None:
    """Trace the verb that the command line names."""
    walk = Walk()
    threading.setprofile(walk.watch)
    sys.setprofile(walk.watch)
    try:
        cli.run(sys.argv[1:])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    print(f"{len(walk.entered)} modules entered, in order:")
    print("  " + " -> ".join(walk.entered))
    print(f"{len(walk.up)} ways up:")
    for (caller, callee), n in walk.up.most_common():
        print(f"  {caller} -> {callee} ({n:,} calls)")


if __name__ == "__main__":
    main()
