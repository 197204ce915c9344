"""The only import of OpenVINO: without its telemetry, and once.

With `openvino_telemetry` installed, importing OpenVINO 2026.4 starts a process that reports the import to Google
Analytics. Without that package OpenVINO uses its own stub, so the package is hidden during the import. It costs about
0.1 s. `without_telemetry` serves NNCF too, which reports each call through the same package.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_IMPORTING = threading.Lock()


@cache
def import_openvino() -> Any:
    """Import the package, its telemetry hidden. Raises `ImportError` if it is not installed."""
    with _IMPORTING, without_telemetry():  # two threads would undo each other's change of `sys.modules`
        import openvino
        import openvino.frontend
    return openvino


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Hide the package `openvino_telemetry` from what is imported inside the block."""
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
