"""What is read of the body of a refused request before the refusal is sent, and what is not."""

from __future__ import annotations

import asyncio

import pytest

from headstart.serving.leftovers import Leftovers, Message, UnreadBody

MB = 1_000_000


class Client:
    """A client that sends its body in pieces of 1 MB."""

    def __init__(self, pieces: int, *, leaves: bool = False) -> None:
        self.pieces, self.leaves, self.sent = pieces, leaves, 0

    async def __call__(self) -> Message:
        await asyncio.sleep(0)
        if self.leaves and self.sent == self.pieces:
            return {"type": "http.disconnect"}
        self.sent += 1
        return {"type": "http.request", "body": bytes(MB), "more_body": self.sent < self.pieces or self.leaves}


def scope(**headers: str) -> Message:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


def read_of(client: Client, asked: Message, leftovers: Leftovers | None = None) -> int:
    """Pieces that are read before a refusal; the largest allowed body has 2 MB."""
    asyncio.run((leftovers or Leftovers(2 * MB)).discard(asked, UnreadBody(client)))
    return client.sent


@pytest.mark.parametrize(
    ("headers", "pieces", "read"),
    [
        ({"content_length": str(5 * MB)}, 5, 5),
        ({"content_length": str(9 * MB)}, 9, 0),  # more than is ever read
        ({"content_length": "65536"}, 1, 0),  # already sent
        ({"content_length": "65537"}, 1, 1),
        ({"content_length": str(5 * MB), "expect": "100-continue"}, 5, 0),
        ({"transfer_encoding": "chunked"}, 5, 5),
        ({"transfer_encoding": "chunked"}, 20, 8),
        ({}, 1, 0),  # no body
    ],
)
def test_a_body_is_read_to_its_end_within_limits(headers: dict[str, str], pieces: int, read: int) -> None:
    assert read_of(Client(pieces), scope(**headers)) == read


def test_a_client_that_leaves_is_not_awaited() -> None:
    assert read_of(Client(3, leaves=True), scope(content_length=str(5 * MB))) == 3


def test_nothing_is_read_of_a_body_that_was_read_before() -> None:
    client = Client(2)
    body = UnreadBody(client)

    async def read_all() -> None:
        while body.more:
            await body.receive()
        await Leftovers(2 * MB).discard(scope(content_length=str(2 * MB)), body)

    asyncio.run(read_all())
    assert client.sent == 2


def test_only_so_many_are_read_at_once() -> None:
    leftovers, clients = Leftovers(2 * MB, at_once=2), [Client(5) for _ in range(3)]

    async def all_at_once() -> None:
        asked = scope(content_length=str(5 * MB))
        await asyncio.gather(*[leftovers.discard(asked, UnreadBody(client)) for client in clients])

    asyncio.run(all_at_once())
    assert [client.sent for client in clients] == [5, 5, 0]
    assert read_of(Client(5), scope(content_length=str(5 * MB)), leftovers) == 5  # their places are free again
