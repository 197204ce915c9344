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
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import headstart.errors
from headstart.images.formats import heif_specs

READY = b"ready\n"
MEMORY_BYTES = 6 << 30  # address space; three copies of the largest allowed image take 1.5 GB
RESERVED_BYTES = 512 << 20  # of a control group's limit: what the parent and the idle processes take
LEAST_BYTES = 64 << 20  # enough for a photograph of 12 million pixels
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


def memory_share(processes: int, limit: int | None) -> int:
    """Return how many bytes each of `processes` may use to decode if all of them, and their parent, have `limit` in all.

    Half a gigabyte is reserved; the rest is divided equally, and the parent gets a part too. At least 64 MiB, and at most
    what is allowed without a limit.

    >>> memory_share(2, 2 << 30) >> 20
    512
    """
    if limit is None:
        return MEMORY_BYTES
    return min(MEMORY_BYTES, max(LEAST_BYTES, (limit - RESERVED_BYTES) // (processes + 1)))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return how much memory in bytes the control group of this process may use; None if there is no such limit.

    A container and a systemd unit are control groups. Of version 2 and 1 of Linux's, and of the groups around this one, the
    smallest limit counts. `root` has the folders proc and sys.
    """
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    limits = [_text(group / names[version]).strip() for group, version in _control_groups(root, "memory")]
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return how many CPU cores' time the control group of this process may use; None if there is no such limit.

    See `memory_limit`.
    """
    limits = []
    for group, version in _control_groups(root, "cpu"):
        texts = [group / "cpu.max"] if version == 2 else [group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"]
        quota, period = [*" ".join(map(_text, texts)).split(), "", ""][:2]
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folders of this process's control groups and those around them, and which version of Linux's they are."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            if not controllers:
                yield root / "sys/fs/cgroup" / group, 2
            elif controller in controllers.split(","):
                yield root / "sys/fs/cgroup" / controller / group, 1


def _text(file: Path) -> str:
    """Return the text of a file of the system; "" where it has none."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


if sys.platform == "win32":

    def limit_memory(more: int = MEMORY_BYTES) -> None:
        """Do nothing: Windows has no such limits; the parent's watchdog is the only one."""

    def limit_cpu(seconds_each: float) -> None:
        """Do nothing: Windows has no such limits."""

else:
    import resource

    def limit_memory(more: int = MEMORY_BYTES) -> None:
        """Disable core files, and limit memory where the system can: to `more` bytes than now, and to 6 GiB in all."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(ValueError, OSError):  # macOS on Apple silicon has more address space from the start
            _lower(resource.RLIMIT_AS, min(MEMORY_BYTES, _address_space() + more))

    def limit_cpu(seconds_each: float) -> None:
        """Let the next image use a little more CPU time than the parent would wait: for when the parent is gone."""
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds_each) + MORE_CPU_SECONDS)

    def _lower(which: int, value: int) -> None:
        """Set a soft limit, unless the system's hard limit is already stricter."""
        hard = resource.getrlimit(which)[1]
        if hard == resource.RLIM_INFINITY or hard > value:
            resource.setrlimit(which, (value, hard))

    def _address_space() -> int:
        """Return the bytes of address space in use; 0 where the system does not say (others than Linux)."""
        pages = _text(Path("/proc/self/statm")).split()[:1]
        return int(pages[0]) * resource.getpagesize() if pages else 0
