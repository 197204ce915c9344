"""What is left of the body of a request that is refused: it is read and thrown away before the refusal is sent.

    body = UnreadBody(receive)                 for each request: the application calls `body.receive`
    await leftovers.discard(scope, body)       before the first byte of a refusal

Many clients read no answer before they have sent everything. If the connection is closed first, they report a broken pipe
instead of the refusal, and do not see its `Retry-After`. Reading on takes no memory and little time (1 ms per megabyte),
but keeps the connection for as long as the client sends. So there are limits: on the bytes and seconds of a request, and on
how many are read at once; beyond them, the refusal is sent at once. It is also sent at once to clients that wait for
permission to send (``Expect: 100-continue``), and to those with little to send, which is on its way before they could read
anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

LITTLE = 65_536
"""Bytes that fit into the buffers of any connection: a client has sent them whether or not they are read."""
TIMES, SECONDS = 4, 2.0
"""At most this multiple of the largest allowed body is read, for this many seconds."""
AT_ONCE = 64


class UnreadBody:
    """Whether more of a request's body is to come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.more = True

    async def receive(self) -> Message:
        """Return the next message, as ASGI has it."""
        message = await self._receive()
        self.more = message["type"] == "http.request" and message.get("more_body", False)
        return message


class Leftovers:
    """Reads and discards, for at most `at_once` requests at a time; `most` is the size of the largest allowed body."""

    def __init__(self, most: int, *, at_once: int = AT_ONCE) -> None:
        self._most, self._free = TIMES * most, at_once

    async def discard(self, scope: Message, body: UnreadBody) -> None:
        """Read the rest of a body, within the limits. Nothing is raised if the client disconnects."""
        if not body.more or not self._free or not self._is_worth_it(scope):
            return
        self._free -= 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    left = self._most
                    while body.more and left > 0:
                        left -= len((await body.receive()).get("body", b""))
        finally:
            self._free += 1

    def _is_worth_it(self, scope: Message) -> bool:
        headers = {name: value for name, value in scope["headers"] if name in _NEEDED}
        stated = headers.get(b"content-length", b"")
        if b"expect" in headers or (not stated and b"transfer-encoding" not in headers):
            return False
        return not stated.isdigit() or LITTLE < int(stated) <= self._most


_NEEDED = frozenset({b"content-length", b"transfer-encoding", b"expect"})
