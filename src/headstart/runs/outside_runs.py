"""Checks of output places that a user names: none may be inside a run folder, which stays as it was written, and a folder
is replaced only by a newer one of its kind.

They are made before any work. They look at each parent folder, and write nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from pathlib import Path

from headstart.errors import WriteError
from headstart.io.files import check_file_place
from headstart.io.folders import MANIFEST, check_keeps, check_outside_data, check_replaceable, read_manifest
from headstart.runs.run_folder import CLASSIFIER, EXPORTED


def check_outside_run(path: Path, *, option: str = "--out") -> None:
    """Raise `WriteError` if `path`, named with `option`, is a run folder, or inside one or inside an export: both stay as they
    were written."""
    place = Path(os.path.abspath(path))
    for mark, what, folders in (
        (CLASSIFIER, "run folder", (place, *place.parents)),
        (EXPORTED, "export", place.parents),
    ):
        for folder in folders:
            if os.path.isfile(folder / MANIFEST) and os.path.isfile(folder / mark):
                raise WriteError(
                    f"{path}: is in the {what} {folder}, which must not change.", hint=f"Choose another {option}."
                )


def check_earlier(out: Path, kind: str, is_kind: Callable[[Set[str]], bool]) -> None:
    """Raise `WriteError` if no folder of this `kind` can be written to `out`, or if it would replace one of another kind.

    `is_kind` tells the kind from the names in the folder's manifest.
    """
    check_outside_run(out)
    check_replaceable(out)
    _check_kind(out, kind, is_kind)


def check_run_place(out: Path) -> None:
    """Raise `WriteError` if no run folder can be written to `out`, or if it would replace something other than a run."""
    check_replaceable(out)
    if not os.path.isfile(out / MANIFEST):  # else it is replaced
        check_outside_run(out)
    _check_kind(out, "run", lambda names: CLASSIFIER in names)


def _check_kind(out: Path, kind: str, is_kind: Callable[[Set[str]], bool]) -> None:
    if not os.path.isfile(out / MANIFEST):
        return
    if not is_kind(read_manifest(out, "").keys()):
        raise WriteError(f"{out}: is not an earlier {kind}; it is not replaced.", hint="Choose another --out.")


def check_out_file(path: Path, *inputs: Path, option: str = "--out") -> None:
    """Like `check_file_place`, for a file that the user names with `option`.

    It must not be in a run folder, nor be one of the `inputs` or inside one of them.
    """
    check_file_place(path)
    check_outside_run(path, option=option)
    check_keeps(path, inputs, option=option)
    for source in inputs:
        check_outside_data(path, source, option=option)
