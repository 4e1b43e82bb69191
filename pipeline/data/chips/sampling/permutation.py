"""Random numbers and permutations as pure functions of a key; nothing is stored.

A permutation is a Feistel network (Luby & Rackoff 1988) with cycle walking (Black & Rogaway 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from struct import unpack
from typing import Final

_MASK64: Final = (1 << 64) - 1

ROUNDS: Final = 6
"""Keys that a permutation takes."""


def words(*key: str | int, count: int) -> list[int]:
    """`count` (at most 8) independent uniform 64-bit integers that are a function of the key alone."""
    return hashed("\x1f".join(map(str, key)), count)


def hashed(text: str, count: int) -> list[int]:
    """Random words of a key that is one text."""
    return list(unpack(f"<{count}Q", blake2b(text.encode(), digest_size=8 * count).digest()))


def permute(index: int, length: int, keys: Sequence[int]) -> int:
    """Element `index` of a pseudo-random permutation of range(length), chosen by the 64-bit round keys.

    A length is below 2**64. The rounds mix with the finaliser of splitmix64 (Steele et al. 2014).
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            scrambled = right + key & _MASK64
            scrambled = (scrambled ^ scrambled >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
            scrambled = (scrambled ^ scrambled >> 27) * 0x94D049BB133111EB  # what passes 64 bits, the mask takes away
            left, right = right, left ^ (scrambled ^ scrambled >> 31) & mask
        index = left << half | right
        if index < length:
            return index
