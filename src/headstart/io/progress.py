"""Progress bars and notes on stderr, so that stdout stays free for results.

>>> with bar("Embedding", total=3) as advance:
...     for _ in range(3):
...         advance(1)
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("headstart")
"""Notes for people: choices and reasons. Silent in Python unless logging is set up; the command line shows them."""


@contextmanager
def bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs, if stderr is a terminal; yield `advance(n)`, safe to call from threads."""
    with open_bar(description, total) as (advance, _):
        yield advance


@contextmanager
def open_bar(
    description: str, total: int | None = None
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Do the same for a total that becomes known later; yield `advance(n)` and `expect(total)`."""
    if not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO):
        yield lambda n: None, lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.advance(task, n), lambda n: progress.update(task, total=n)
