"""Common parts of the processes that decode untrusted images: how they are started, their streams, their limits.

    interpreter("from headstart.images.validate_worker import serve; serve(float(sys.argv[1]))", "20")

The parent calls `interpreter`; the process itself calls the others before it decodes anything. It sees only the standard
library, headstart and the decoders, and is ready in about 0.1 s. It is not a sandbox for files: it runs as the same user.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import headstart.errors
from headstart.images.formats import heif_specs

READY = b"ready\n"
MEMORY_BYTES = 6 << 30  # address space; three copies of the largest allowed image take 1.5 GB
MORE_CPU_SECONDS = 10


def interpreter(code: str, argument: str, *more: str) -> list[str]:
    """Return the command line of an interpreter that runs `code`, with `argument` in ``sys.argv[1]``.

    It can import the standard library, headstart, Pillow, libheif where it is installed, and the modules `more`.
    """
    found = [find_spec(name) for name in ("PIL", *more)]
    files = [headstart.errors.__file__, *(spec.origin for spec in [*found, *heif_specs()] if spec is not None)]
    roots = {str(Path(file).resolve().parent.parent) for file in files if file}
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path += sys.argv[2:]; {code}", argument, *sorted(roots)]


def own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return this process's streams for requests and answers, and shield them: what decoders print (libtiff prints a lot)
    reaches neither the answers nor the terminal. Ctrl-C is left to the parent, which ends this process."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return requests, answers


if sys.platform == "win32":

    def limit_memory() -> None:
        """Do nothing: Windows has no such limits; the parent's watchdog is the only one."""

    def limit_cpu(seconds_each: float) -> None:
        """Do nothing: Windows has no such limits."""

else:
    import resource

    def limit_memory() -> None:
        """Disable core files, and limit memory where the system can."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _lower(resource.RLIMIT_AS, MEMORY_BYTES)

    def limit_cpu(seconds_each: float) -> None:
        """Let the next image use a little more CPU time than the parent would wait: for when the parent is gone."""
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds_each) + MORE_CPU_SECONDS)

    def _lower(which: int, value: int) -> None:
        """Set a soft limit, unless the system's hard limit is already stricter."""
        hard = resource.getrlimit(which)[1]
        if hard == resource.RLIM_INFINITY or hard > value:
            resource.setrlimit(which, (value, hard))
