"""How often a request to a store is retried, how long to wait in between, and how many may run at once.

    pace = Pace(most=64)
    data = pace.asked(lambda: get(key), Failure.of, (OSError,))     raises the last failure's error after the last try

Waits grow exponentially with full jitter: each is random between zero and a limit that doubles with every try, so that
many processes that were refused together do not come back together. A server that asks to slow down (503, 429) gets
half as many requests at once; each answer then raises the number a little, as TCP does.

Costs a lock per request. Errors that will not go away are not retried: each failure itself says how often to try.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from headstart.errors import StoreError

T = TypeVar("T")

TRIES = 8
"""How often a request is made before its failure is final."""
FEW_TRIES = 3
"""The same, while the server has never answered: no network, or no such host."""
FIRST_WAIT, LONGEST_WAIT = 0.2, 20.0
"""Longest wait in seconds before the second try, and before any try."""


class Refusal(Protocol):
    """What `Pace` must know about a failure."""

    @property
    def tries(self) -> int:
        """How many times the request may be made: 1 if it would fail again."""

    @property
    def slow_down(self) -> bool:
        """Whether the server asked for fewer requests."""

    @property
    def nobody_there(self) -> bool:
        """Whether no connection could be made."""

    def error(self) -> StoreError:
        """Return the error for the user."""


class Pace:
    """The requests to one store."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self._answered = False
        self._running = 0
        self._changed = threading.Condition()

    def asked(
        self, request: Callable[[], T], failure: Callable[[Exception], Refusal], kinds: tuple[type[Exception], ...]
    ) -> T:
        """Return the answer to a request; retry it after exceptions of these `kinds`, if the failure may pass."""
        tried = 0
        while True:
            tried += 1
            try:
                return self._made(request)
            except kinds as error:
                refused = failure(error)
            if refused.slow_down:
                self._slow_down()
            most = FEW_TRIES if refused.nobody_there and not self._answered else refused.tries
            if tried >= most:
                raise refused.error()
            time.sleep(wait(tried))

    def _made(self, request: Callable[[], T]) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._running < max(int(self.limit), 1))
            self._running += 1
        try:
            answer = request()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()
        with self._changed:
            self._answered = True
            self.limit = min(self.limit + 1 / self.limit, self.most)
        return answer

    def _slow_down(self) -> None:
        with self._changed:
            self.limit = max(self.limit / 2, 1.0)


def wait(tried: int) -> float:
    """Return a random number of seconds to wait after `tried` tries."""
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tried - 1)))
