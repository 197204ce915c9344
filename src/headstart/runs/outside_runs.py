"""Places that a user names for output: none may lie in a run folder, whose manifest is closed.

Asked before the work. Costs a look at each folder above the place; nothing is written.
"""

from __future__ import annotations

import os
from pathlib import Path

from headstart.errors import WriteError
from headstart.io.files import check_file_place
from headstart.io.folders import MANIFEST, check_keeps, check_outside_data
from headstart.runs.run_folder import CLASSIFIER


def check_outside_run(path: Path) -> None:
    """Raise `WriteError` if `path` is a run folder or lies in one: a file more, and its manifest no longer holds."""
    place = Path(os.path.abspath(path))
    for folder in (place, *place.parents):
        if os.path.isfile(folder / MANIFEST) and os.path.isfile(folder / CLASSIFIER):
            raise WriteError(
                f"{path}: lies in the run folder {folder}, which is left as it is.", hint="Choose another --out."
            )


def check_out_file(path: Path, *inputs: Path, option: str = "--out") -> None:
    """As `check_file_place`, for a file that a user names with `option`.

    It may not lie in a run folder, whose manifest is closed; nor be one of the `inputs`, nor lie in one that is a folder.
    """
    check_file_place(path)
    check_outside_run(path)
    check_keeps(path, inputs, option=option)
    for given in inputs:
        check_outside_data(path, given, option=option)
