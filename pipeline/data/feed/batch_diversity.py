"""Batch diversity of a run: scenes and blocks in a batch, and class shares against independent windows.

Shares of classes are those of the masks that are trained on. Of groups of independent windows, the means vary by the
variance of single windows over the group's size. How much more they do is the chi-square, per degree of freedom: 1 in
groups that are as diverse as they can be, the group's size where all of a group is alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline import store
from pipeline.data.chips.sampling.order import Order
from pipeline.data.labels.classes import IGNORE
from pipeline.errors import DamagedError

if TYPE_CHECKING:
    from pipeline.data.feed.batches import Batch  # which knows of chips, and they of sampling

logger = logging.getLogger(__name__)

Shares = NDArray[np.float64]

FILE: Final = "mixing.json"
"""In a run's directory."""
_ENOUGH: Final = 20_000
"""Chips that are counted; more would give the same numbers."""
_SIDE: Final = 64
"""About so many rows and columns of a mask are looked at."""


@dataclass(frozen=True)
class Groups:
    """Sums over groups of chips, of the share x that each class has of a chip; they add up.

    `total` is the sum of x, `squares` that of x², `grouped` that of (sum over a group)² / its size; all [K].
    """

    total: Shares
    squares: Shares
    grouped: Shares
    chips: int = 0
    groups: int = 0

    @classmethod
    def none(cls, num_classes: int) -> Groups:
        """To begin with."""
        return cls(*np.zeros((3, num_classes)))

    def plus(self, shares: Shares) -> Groups:
        """Add one more group, of shares [N, K]."""
        if not len(shares):
            return self
        total = shares.sum(axis=0)
        return Groups(
            self.total + total,
            self.squares + np.square(shares).sum(axis=0),
            self.grouped + np.square(total) / len(shares),
            self.chips + len(shares),
            self.groups + 1,
        )

    @property
    def chi_square(self) -> float:
        """Per degree of freedom, mean over the classes that vary; NaN of fewer than two groups, and if none varies."""
        if self.groups < 2:
            return float("nan")
        mean = np.square(self.total) / self.chips
        variance = (self.squares - mean) / (self.chips - 1)
        varies = variance > 1e-12
        between = (self.grouped - mean)[varies] / (self.groups - 1)
        return float((between / variance[varies]).mean()) if varies.any() else float("nan")


class BatchDiversity:
    """Diversity of the batches of a run, counted batch by batch.

    Args:
        order: where chips are.
        global_batch: chips of a step.
        num_classes: of the masks.
    """

    def __init__(self, order: Order, global_batch: int, num_classes: int) -> None:
        self._order, self._global_batch, self._num_classes = order, global_batch, num_classes
        self._batches = self._scenes = self._blocks = self._chips = 0
        self._in_batches = self._in_pools = Groups.none(num_classes)
        self._pool = range(0)
        self._shares: list[Shares] = []

    def watching(self, feed: Callable[[int], Iterable[Batch]]) -> Callable[[int], Iterator[Batch]]:
        """Wrap a feed so that its batches are counted as they pass."""

        def passing(start: int) -> Iterator[Batch]:
            for step, batch in enumerate(feed(start), start):
                self.add(step, batch.numbers[0], batch.mask.numpy())
                yield batch

        return passing

    def add(self, step: int, first: int, masks: NDArray[np.uint8]) -> None:
        """Look at a batch, if not enough were looked at.

        Args:
            step: which counts from 0: scenes and blocks are those of its global batch.
            first: number of the first of the chips that this rank has.
            masks: of these, [N, H, W] of ids and IGNORE or [N, K, H, W] of 0, 1 and IGNORE.
        """
        if self._chips >= _ENOUGH:
            return
        refs = [self._order.chip(n) for n in range(step * self._global_batch, (step + 1) * self._global_batch)]
        self._batches += 1
        self._scenes += len({ref.scene for ref in refs})
        self._blocks += len({(ref.scene, ref.block or ref.window) for ref in refs})
        self._chips += len(masks)
        shares = shares_of(masks, self._num_classes)
        self._in_batches = self._in_batches.plus(known(shares))
        for number, share in enumerate(shares, first):
            if number not in self._pool:
                self._in_pools, self._shares = self._with_pool, []
                self._pool = self._order.pool(number)
            self._shares.append(share)

    @property
    def numbers(self) -> dict[str, float]:
        """Mean scenes and blocks in a batch, chi-square of class shares of batches and, with blocks, of
        pools; those that are known."""
        if not self._batches:
            return {}
        found = {
            "scenes_per_batch": self._scenes / self._batches,
            "blocks_per_batch": self._blocks / self._batches,
            "chi_square_of_batches": self._in_batches.chi_square,
            "chi_square_of_pools": self._with_pool.chi_square if self._order.span > 1 else float("nan"),
        }
        return {name: value for name, value in found.items() if not np.isnan(value)}

    @property
    def _with_pool(self) -> Groups:
        return self._in_pools.plus(known(np.array(self._shares).reshape(-1, self._num_classes)))


def shares_of(masks: NDArray[np.uint8], num_classes: int) -> Shares:
    """Share of each class of what is labelled in each chip, [N, K], from rows and columns that lie evenly; NaN where
    nothing is."""
    rows, cols = (slice(None, None, max(1, side // _SIDE)) for side in masks.shape[-2:])
    seen = masks[..., rows, cols]
    if masks.ndim == 4:
        valid = (seen != IGNORE).sum(axis=(2, 3))
        counts = (seen == 1).sum(axis=(2, 3))
    else:
        first = np.arange(len(seen))[:, None] << 8
        every = np.bincount((first + seen.reshape(len(seen), -1)).ravel(), minlength=len(seen) << 8)
        counts = every.reshape(-1, 256)[:, :num_classes]
        valid = counts.sum(axis=1, keepdims=True)
    shares: Shares = np.divide(counts, valid, out=np.full(counts.shape, np.nan), where=valid > 0)
    return shares


def known(shares: Shares) -> Shares:
    """Those of the chips that have a label."""
    return shares[~np.isnan(shares).any(axis=1)]


def read(run_uri: str) -> dict[str, float]:
    """The numbers that a run kept; none if it did not."""
    try:
        return store.read_record(store.join(run_uri, FILE), _numbers)
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        logger.warning("%s; the report does not show batch diversity", error.message)
        return {}


def _numbers(tree: Mapping[str, Any]) -> dict[str, float]:
    if not all(value is None or isinstance(value, int | float) for value in tree.values()):
        raise ValueError("not only numbers")
    return dict(tree)


def summary_text(numbers: Mapping[str, float]) -> str:
    """The numbers as words for people; "" where there are none."""
    words = {
        "scenes_per_batch": "{:.1f} scenes",
        "blocks_per_batch": "{:.1f} blocks in a batch",
        "chi_square_of_batches": "χ² of class shares {:.2f} between batches",
        "chi_square_of_pools": "{:.2f} between pools",
    }
    said = [form.format(numbers[name]) for name, form in words.items() if numbers.get(name) is not None]
    return f"{', '.join(said)} (1: as windows drawn each on its own)" if said else ""
