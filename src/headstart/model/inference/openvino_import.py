"""The only import of OpenVINO: without its telemetry, and once.

With `openvino_telemetry` installed, importing OpenVINO 2026.4 starts a process that reports the import to Google
Analytics. Without that package OpenVINO uses its own stub, so the package is hidden during the import. It costs about
0.1 s. NNCF brings a telemetry of its own, which this does not silence.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


@cache
def import_openvino() -> Any:
    """Import the package, its telemetry hidden. Raises `ImportError` if it is not installed."""
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
        import openvino.frontend
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino
