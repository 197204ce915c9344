"""CRC-32C (Castagnoli; RFC 3720, appendix B.4), the one checksum that Google's storage gives of every file.

    >>> hex(Crc32c().add(b"123456789").value)
    '0xe3069283'

Lanes of a block are run side by side in numpy, two bytes per step, and joined by the operator that appends zeros (a CRC is
linear over GF(2), so the CRC of A followed by B is that of A, shifted by the length of B, xor that of B). 300 MB/s on a
core, where a loop in Python makes 5. Against accidents only: anyone can make a file with a given CRC.
"""

from __future__ import annotations

from functools import cache

import numpy as np

POLYNOMIAL = np.uint32(0x82F63B78)  # reflected
STEPS = 256
"""Steps of two bytes in a lane."""
LANES = 4096
BLOCK = 2 * STEPS * LANES
"""Bytes of a block: 2 MiB."""
_ONES = 0xFFFFFFFF


class Crc32c:
    """The CRC of what was added so far."""

    def __init__(self) -> None:
        self._register = _ONES

    @property
    def value(self) -> int:
        """The CRC, as an integer of 32 bits."""
        return self._register ^ _ONES

    def add(self, data: bytes) -> Crc32c:
        """Go on with these bytes; many at once (a block and more) are fast, few are not."""
        for start in range(0, len(data), BLOCK):
            piece = data[start : start + BLOCK]
            self._register = _shifted(self._register, len(piece)) ^ _of_block(piece)
        return self


def _of_block(piece: bytes) -> int:
    """CRC from a register of 0, without the last xor: zeros before the bytes change nothing, so a short one is filled up."""
    if len(piece) < BLOCK:
        lanes = max(1, 1 << (-(-len(piece) // (2 * STEPS)) - 1).bit_length())
        piece = bytes(2 * STEPS * lanes - len(piece)) + piece
    pairs_LS = np.frombuffer(piece, "<u2").reshape(-1, STEPS)
    table, register_L = _pair_table(), np.zeros(len(pairs_LS), np.uint32)
    for pairs_L in np.ascontiguousarray(pairs_LS.T):
        register_L = table[(register_L & 0xFFFF) ^ pairs_L] ^ (register_L >> np.uint32(16))
    length = 2 * STEPS
    while len(register_L) > 1:
        register_L = _through(_operator(length), register_L[::2]) ^ register_L[1::2]
        length *= 2
    return int(register_L[0])


@cache
def _pair_table() -> np.ndarray:
    """uint32 (65536,): the register after two bytes, from a register that is those two bytes."""
    register = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        register = np.where(register & 1, (register >> np.uint32(1)) ^ POLYNOMIAL, register >> np.uint32(1))
    return register


def _shifted(register: int, length: int) -> int:
    """The register after `length` zero bytes."""
    value = np.array([register], np.uint32)
    for bit in range(length.bit_length()):
        if length >> bit & 1:
            value = _through(_operator(1 << bit), value)
    return int(value[0])


@cache
def _operator(length: int) -> np.ndarray:
    """uint32 (4, 256): what each byte of a register becomes after `length` zero bytes, a power of two."""
    if length > 1:
        half = _operator(length // 2)
        return np.stack([_through(half, row) for row in half])
    register = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    for _ in range(8):
        register = np.where(register & 1, (register >> np.uint32(1)) ^ POLYNOMIAL, register >> np.uint32(1))
    return register


def _through(operator: np.ndarray, register_N: np.ndarray) -> np.ndarray:
    """Apply an operator to registers."""
    return np.bitwise_xor.reduce(
        [operator[k][(register_N >> np.uint32(8 * k)) & np.uint32(0xFF)] for k in range(4)], axis=0
    )
