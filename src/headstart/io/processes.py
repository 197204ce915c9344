"""Run a command in a child process to its end or for a limited time, and measure its peak memory.

The process is stopped as by Ctrl-C, and killed if it does not react. Threads read its output, so it never blocks on a
full pipe. Costs one poll every 0.02 s. Not for workers that answer while they run: all output is held until the end.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

GRACE_SECONDS = 5.0
"""Seconds that a stopped process has to save its work before it is killed."""


@dataclass(frozen=True)
class ProcessResult:
    """A process that has ended: its output, duration and peak memory; `stopped` if it took too long."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_memory_mb: float
    stopped: bool


def run_child(command: Sequence[str], limit: float, *, grace: float = GRACE_SECONDS) -> ProcessResult:
    """Run a command to its end, or for `limit` seconds; Ctrl-C stops it too.

    A process that still runs `grace` seconds after being asked to stop is killed.
    """
    started = time.monotonic()
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(list(command), text=True, encoding="utf-8", errors="backslashreplace", **pipes)
    outs: list[str] = []
    errs: list[str] = []
    readers = [_reader(process.stdout, outs), _reader(process.stderr, errs)]
    stopped, memory = False, math.nan
    try:
        while True:
            memory = _peak_memory(process.pid, memory)
            usage = _reap(process)
            if process.returncode is not None:
                break
            if not stopped and time.monotonic() - started > limit:
                stopped = True
                _stop(process, grace)
            time.sleep(0.02)
    except BaseException:
        _stop(process, grace)
        raise
    for reader in readers:
        reader.join(grace)
    memory = usage if math.isnan(memory) else memory
    return ProcessResult(
        code=process.returncode,
        stdout="".join(outs),
        stderr="".join(errs),
        seconds=time.monotonic() - started,
        peak_memory_mb=memory,
        stopped=stopped,
    )


def _reader(pipe: IO[str] | None, lines: list[str]) -> threading.Thread:
    def read() -> None:
        if pipe is not None:
            lines.extend(pipe)
            pipe.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _peak_memory(pid: int, before: float) -> float:
    """Return a process's peak memory so far in megabytes, on Linux; elsewhere, or once it is gone, `before`.

    A child's `ru_maxrss` is used only as a fallback: it also counts the parent's own memory, from before the exec.
    """
    with suppress(OSError):  # not Linux, or the process is gone
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            match = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
        if match:
            return int(match[1]) * 1024 / 1e6
    return before


def _reap(process: subprocess.Popen[str]) -> float:
    """Store the exit code if the process has ended, and return the peak memory counted by the system, else NaN."""
    if process.returncode is not None:
        return math.nan
    if not hasattr(os, "wait4"):  # Windows
        process.poll()
        return math.nan
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return math.nan
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _stop(process: subprocess.Popen[str], grace: float) -> None:
    """Ask a process to stop, as Ctrl-C does; kill it if it does not. `_reap` stores its exit code."""
    if process.returncode is not None:
        return
    with suppress(OSError):  # it has just ended
        process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
    until = time.monotonic() + grace
    while process.returncode is None and time.monotonic() < until:
        time.sleep(0.02)
        _reap(process)
    if process.returncode is None:
        process.kill()
        process.wait()
