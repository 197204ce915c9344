"""The formats of `export` that keep the run's own network: nothing is converted, so there is nothing to compare.

    RUN_FORMATS["hub"](RunFolder("run"), folder)

To add one, write a module like `hub_folder` or `mlflow_folder` with a function that fills a new folder, and add it here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headstart.exporters.hub_folder import write_hub_folder
from headstart.exporters.mlflow_folder import write_mlflow_folder
from headstart.runs.run_folder import RunFolder

RUN_FORMATS: dict[str, Callable[[RunFolder, Path], None]] = {"hub": write_hub_folder, "mlflow": write_mlflow_folder}
"""Format -> the function that writes it, which raises `RunError`, `ExportError`, `WriteError`."""

NEXT = {"hub": "headstart push {out} OWNER/NAME", "mlflow": 'mlflow.pyfunc.load_model("{out}")'}
"""Format -> what to do next with the folder."""
