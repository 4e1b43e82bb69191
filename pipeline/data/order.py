"""Which chip comes when: a pure function of (manifest digest, sampling section, seed, number).

Nothing here depends on how many processes ask, where they began or what runs them, so that resuming is arithmetic.
An epoch is a permutation of its slots by a Feistel network (Luby & Rackoff 1988) with cycle walking (Black &
Rogaway 2002): the n-th element is computed, never stored. The only state is one counter per scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pipeline.data.windows import Window
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import Sampling

_ROUNDS = 6
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ChipRef:
    """Where chip `number` is: epoch, position in the epoch, position of the scene in the split, window."""

    number: int
    epoch: int
    index: int
    scene: int
    window: Window


def words(*key: str | int, count: int) -> list[int]:
    """`count` (at most 8) independent uniform 64-bit integers that are a function of the key alone."""
    text = "\x1f".join(map(str, key)).encode()
    digest = blake2b(text, digest_size=8 * count).digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8)]


def permute(index: int, length: int, keys: Sequence[int]) -> int:
    """Element `index` of a pseudo-random permutation of range(length), chosen by the 64-bit round keys."""
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    while True:
        index = _feistel(index, half, keys)
        if index < length:
            return index


def _feistel(value: int, half: int, keys: Sequence[int]) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << half | right


def _mix(value: int) -> int:
    """Finaliser of splitmix64 (Steele et al. 2014)."""
    value &= _MASK64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK64
    return value ^ value >> 31


class Order:
    """The endless sequence of chips.

    Args:
        sizes: (height, width) of each scene of the split, in manifest order.
        sampling: size of the window, weight of the scenes, length of the epoch.
        digest: the manifest's digest.
        seed: the recipe's seed.

    Raises:
        ManifestError: there is no scene.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], sampling: Sampling, digest: str, seed: int) -> None:
        if not sizes:
            raise ManifestError("no scene to take chips from", "give the train split at least one scene")
        self._sizes: NDArray[np.int64] = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)
        self._size = sampling.size
        self._digest, self._seed = digest, seed
        needed = -(-self._sizes.prod(axis=1) // sampling.size**2)
        share = needed if sampling.weight == "area" else np.ones_like(needed)
        self._ends = share.cumsum()
        self.epoch_size = sampling.epoch_size or int(needed.sum())

    def chip(self, number: int) -> ChipRef:
        """Scene and window of chip `number` >= 0; O(log scenes)."""
        epoch, index = divmod(number, self.epoch_size)
        *keys, offset = words(self._digest, self._seed, epoch, count=_ROUNDS + 1)
        scene = self._scene(permute(index, self.epoch_size, keys), offset)
        down, right = words(self._digest, self._seed, epoch, index, count=2)
        height, width = self._sizes[scene].tolist()
        return ChipRef(number, epoch, index, scene, self._window(height, width, down, right))

    def _scene(self, slot: int, offset: int) -> int:
        """Systematic sampling: slots lie evenly over the scenes' shares, from an origin that moves with the epoch.

        With as many slots as shares each share is met once; with fewer, other scenes are met in other epochs.
        """
        total = int(self._ends[-1])
        place = (slot * total + offset % (total * self.epoch_size)) // self.epoch_size % total
        return int(np.searchsorted(self._ends, place, side="right"))

    def _window(self, height: int, width: int, down: int, right: int) -> Window:
        """A uniform position; a scene smaller than the window is padded below and to the right."""
        row = down * max(1, height - self._size + 1) >> 64
        col = right * max(1, width - self._size + 1) >> 64
        return Window(row, col, self._size, self._size)
