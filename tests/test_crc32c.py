"""CRC-32C against the vectors of RFC 3720 and a plain loop over bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.kaggle_api.crc32c import BLOCK, STEPS, Crc32c


def plain(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_vectors_of_rfc_3720(data: bytes, value: int) -> None:
    assert Crc32c().add(data).value == value == plain(data)


@given(st.binary(max_size=6 * STEPS), st.integers(0, 6 * STEPS))
def test_any_bytes_in_any_two_pieces(data: bytes, cut: int) -> None:
    assert Crc32c().add(data[:cut]).add(data[cut:]).value == plain(data)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 3, 2 * BLOCK + 12_345])
def test_blocks(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    pieces = Crc32c()
    for start in range(0, size, 700_001):
        pieces.add(data[start : start + 700_001])
    assert Crc32c().add(data).value == pieces.value
    assert Crc32c().add(data[:-1] + bytes([data[-1] ^ 1])).value != pieces.value
