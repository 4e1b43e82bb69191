"""The order of chips: a pure function of (manifest digest, sampling section, seed, number).

Nothing here depends on how many processes ask, where they began or what runs them, so that resuming is arithmetic.
An epoch is a permutation of its slots, of which the n-th element is computed, never stored. The only state is one
counter per scene, and, where windows are drawn by what masks hold, the index of that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from pipeline.data.chips.sampling import class_index as presences
from pipeline.data.chips.sampling import window_draw as draw
from pipeline.data.chips.sampling.class_index import Presence
from pipeline.data.chips.sampling.grid_windows import WindowGrid
from pipeline.data.chips.sampling.permutation import ROUNDS, hashed, permute, words
from pipeline.data.chips.sampling.window_draw import Shape, Words, Worst
from pipeline.data.rasters.windows import Window
from pipeline.errors import ManifestError
from pipeline.recipe.sampling import Balanced, Foreground, GridSampling, Hard, Locality, Sampling, Uniform

__all__ = ["BlockRef", "ChipRef", "Order", "permute", "words"]

_TRIES: Final = 24
_BLIND_TRIES: Final = 8
_KNOWN: Final = 512


@dataclass(frozen=True, slots=True)
class ChipRef:
    """Reference to chip `number`: epoch, position in the epoch, position of the scene in the split, window.

    The window is not of the chip's size where scales are drawn. `block` is the window that a reader may read once for
    several chips, where the sampling draws such.
    """

    number: int
    epoch: int
    index: int
    scene: int
    window: Window
    block: Window | None = None


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One window that holds the windows of several chips of a scene."""

    scene: int
    window: Window
    refs: tuple[ChipRef, ...]


class _Turn(NamedTuple):
    """One chip that is asked for: its slot is where the epoch's permutation puts its position."""

    number: int
    epoch: int
    position: int
    slot: int
    offset: int


class _Place(NamedTuple):
    """The draw for a chip."""

    scene: int
    window: Window
    block: Window | None = None


class Order:
    """The endless sequence of chips.

    Args:
        shapes: height and width of each scene of the split, in manifest order; then, where they matter, its slices, and
            row and column of its first pixel in the file.
        sampling: which windows are drawn, and how many make an epoch.
        digest: the manifest's digest.
        seed: the recipe's seed.
        presence: what the scenes' masks hold; needed where the sampling draws by that.
        class_names: of the masks' classes; needed for `balanced`.
        worst: where a model was bad; needed for `hard`.

    Raises:
        ManifestError: there is no scene, or none with what the sampling asks for.
        RecipeError: `balanced` names a class that does not exist.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        sampling: Sampling,
        digest: str,
        seed: int,
        *,
        presence: Presence | None = None,
        class_names: Sequence[str] = (),
        worst: Sequence[Worst] = (),
    ) -> None:
        if not len(shapes):
            raise ManifestError("no scene to take chips from", "give the train split at least one scene")
        self._sampling, self._worst = sampling, tuple(worst)
        self._shapes = draw.table(shapes)
        self._presence = presences.checked(presence, self._shapes, sampling) if presences.needed(sampling) else None
        # Asked once: an instance check of such classes takes as long as drawing a window.
        self._grid = (
            WindowGrid.of(self._shapes, sampling, self._presence) if isinstance(sampling, GridSampling) else None
        )
        chips = draw.num_chips(self._shapes, sampling, self._presence, self._grid)
        shares = chips if sampling.weight == "area" else np.minimum(chips, 1)
        self._ends = array("q", shares.cumsum().tobytes())
        self._near = sampling.locality if isinstance(sampling, Uniform) else None
        self._one_by_one = self._grid is not None and sampling.weight == "area"
        self._hard = sampling if isinstance(sampling, Hard) else None
        self._share = sampling.share if isinstance(sampling, Balanced | Foreground | Hard) else 0.0
        self._largest = sampling.largest
        self._tries = _TRIES if sampling.min_valid and self._grid is None else 1
        self.epoch_size = draw.epoch_size(sampling, int(chips.sum()))
        self._targets = draw.targets(sampling, self._presence, class_names)
        if self._hard is not None and not worst:
            raise ManifestError("data.sampling: no worst windows are known", "give a report of the train split")
        # What uniform sampling drew before there was anything else to draw must stay what it is.
        alone = isinstance(sampling, Uniform) and self._near is None and sampling.scale is None
        self._two_words = alone and bool((self._shapes[:, 2] == 1).all())
        self._key = f"{digest}\x1f{seed}\x1f"
        self._known: dict[str, list[int]] = {}
        self._groups: dict[tuple[int, int], int] = {}
        self._blocks: dict[tuple[int, int, int], draw.TileBlock] = {}

    @property
    def span(self) -> int:
        """Chips of one block are among so many numbers of an epoch, counted from its begin; 1 without blocks."""
        return 1 if self._near is None else self._near.pool * self._near.chips

    def chip(self, number: int) -> ChipRef:
        """Scene and window of chip `number` >= 0; O(log scenes)."""
        epoch, index = divmod(number, self.epoch_size)
        *keys, offset = self._keys(str(epoch), ROUNDS + 1)
        place = self._best(_Turn(number, epoch, index, self._slot(epoch, index, keys), offset))
        return ChipRef(number, epoch, index, *place)

    def pool(self, number: int) -> range:
        """The numbers among which the chips are that share a block with this one."""
        epoch, index = divmod(number, self.epoch_size)
        first, end = epoch * self.epoch_size, (epoch + 1) * self.epoch_size
        begin = first + index // self.span * self.span
        return range(begin, min(begin + self.span, end))

    def blocks(self, numbers: Iterable[int]) -> list[BlockRef]:
        """Group the chips by what can be read at once, in the order of their first chips."""
        found: dict[tuple[int, int, Window], list[ChipRef]] = {}
        for ref in map(self.chip, numbers):
            found.setdefault((ref.epoch, ref.scene, ref.block or ref.window), []).append(ref)
        return [BlockRef(scene, window, tuple(refs)) for (_, scene, window), refs in found.items()]

    def _keys(self, text: str, count: int) -> list[int]:
        """Words that several chips share; the last ones are kept, since chips mostly come in order."""
        found = self._known.get(text)
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            found = self._known[text] = hashed(self._key + text, count)
        return found

    def _slot(self, epoch: int, index: int, keys: Sequence[int]) -> int:
        if self._near is not None:
            return self._local_slot(epoch, index, keys)
        return 0 if self._one_by_one else permute(index, self.epoch_size, keys)

    def _words(self, turn: _Turn, attempt: int = 0) -> Words:
        if self._two_words and not attempt:
            return Words(*hashed(f"{self._key}{turn.epoch}\x1f{turn.position}", 2))
        return Words(*hashed(f"{self._key}{turn.epoch}\x1f{turn.position}\x1f{attempt}", 5))

    def _shape(self, scene: int) -> Shape:
        return Shape(*self._shapes[scene].tolist())

    def _scene(self, slot: int, offset: int) -> int:
        """Systematic sampling: slots lie evenly over the scenes' shares, from an origin that moves with the epoch.

        With as many slots as shares each share is met once; with fewer, other scenes are met in other epochs.
        """
        total = self._ends[-1]
        place = (slot * total + offset % (total * self.epoch_size)) // self.epoch_size % total
        return bisect_right(self._ends, place)

    def _best(self, turn: _Turn) -> _Place:
        """The first place that is valid enough; of few that are not, the best."""
        presence = self._presence
        if self._tries == 1 or presence is None:
            return self._place(turn, 0)
        tried: list[tuple[float, int, _Place]] = []
        for attempt in range(self._tries):
            place = self._place(turn, attempt)
            share = presence.valid_share(place.scene, place.window)
            if share >= self._sampling.min_valid:
                return place
            tried.append((share, -attempt, place))
        return max(tried)[2]

    def _place(self, turn: _Turn, attempt: int) -> _Place:
        if self._grid is not None:
            return self._of_grid(turn, self._grid)
        if self._near is not None:
            return self._of_block(turn, attempt)
        # Slots are permuted: so the drawn ones come at random, and exactly so often.
        rank = int(turn.slot * self._share)
        if int((turn.slot + 1) * self._share) == rank:
            return self._uniform(turn, attempt)
        words = self._words(turn, attempt)
        size = draw.side(self._sampling, words.scale)
        if self._hard is not None:
            worst = self._worst[(rank + turn.offset) % len(self._worst)]
            window = draw.moved(self._shape(worst.scene), worst.window, size, self._hard.jitter, words)
            return _Place(worst.scene, window)
        target = self._targets[(rank + turn.offset) % len(self._targets)]
        scene, cell = target.cell(words)
        return _Place(scene, draw.around(self._shape(scene), cell, size, words))

    def _uniform(self, turn: _Turn, attempt: int) -> _Place:
        scene, words = self._scene(turn.slot, turn.offset), self._words(turn, attempt)
        shape, size = self._shape(scene), draw.side(self._sampling, words.scale)
        if attempt < _BLIND_TRIES or self._presence is None:
            return _Place(scene, draw.uniform(shape, size, words))
        # Where little is valid, look about what is.
        return _Place(scene, draw.around(shape, self._presence.valid_cell(scene, words.pick), size, words))

    def _of_grid(self, turn: _Turn, grid: WindowGrid) -> _Place:
        words = self._words(turn)
        if self._one_by_one:
            # Whatever the epoch's size, all windows come once before any comes twice.
            turns, index = divmod(turn.number, self._ends[-1])
            place = permute(index, self._ends[-1], self._keys(f"grid\x1f{turns}", ROUNDS))
            scene = bisect_right(self._ends, place)
            position = place - (self._ends[scene - 1] if scene else 0)
        else:
            scene = self._scene(turn.slot, turn.offset)
            position = draw.below(int(grid.counts[scene]), words.pick)
        shape, sampling = self._shape(scene), grid.sampling
        window = grid.window(shape.height, shape.width, grid.number(scene, position))
        return _Place(scene, draw.moved(shape, window, draw.side(sampling, words.scale), sampling.jitter, words))

    def _local_slot(self, epoch: int, index: int, keys: Sequence[int]) -> int:
        """Consecutive slots are a group, and one block of each scene that they meet.

        Groups come in random order, `pool` at a time; of these, each gives a chip before any gives the next one.
        """
        assert self._near is not None
        pool, chips = self._near.pool, self._near.chips
        number, position = divmod(index, pool * chips)
        groups = min(pool, self.epoch_size // chips - number * pool)
        member, place = divmod(position, groups)
        scrambled = self._keys(f"{epoch}\x1fpool\x1f{number}\x1f{member}", ROUNDS)
        return self._group(epoch, number * pool + permute(place, groups, scrambled), keys) * chips + member

    def _group(self, epoch: int, position: int, keys: Sequence[int]) -> int:
        """The group that is at a position of an epoch; the last ones are kept, for the other chips of the group."""
        found = self._groups.get((epoch, position))
        if found is None:
            if len(self._groups) >= _KNOWN:
                self._groups.clear()
            assert self._near is not None
            found = self._groups[epoch, position] = permute(position, self.epoch_size // self._near.chips, keys)
        return found

    def _of_block(self, turn: _Turn, attempt: int) -> _Place:
        assert self._near is not None
        scene, words = self._scene(turn.slot, turn.offset), self._words(turn, attempt)
        shape, size = self._shape(scene), draw.side(self._sampling, words.scale)
        key = turn.epoch, turn.slot // self._near.chips, scene
        block = self._blocks.get(key)  # the last ones are kept, for the other chips of the group
        if block is None:
            if len(self._blocks) >= _KNOWN:
                self._blocks.clear()
            block = self._blocks[key] = self._block(self._near, shape, key)
        return _Place(scene, draw.inside(shape, block, size, self._largest, words), block.window)

    def _block(self, near: Locality, shape: Shape, key: tuple[int, int, int]) -> draw.TileBlock:
        """A group's block of a scene; `key` is epoch, group and scene."""
        epoch, group, scene = key
        tried: list[tuple[float, draw.TileBlock]] = []
        for attempt in range(_BLIND_TRIES):
            words = hashed(f"{self._key}{epoch}\x1fblock\x1f{group}\x1f{scene}\x1f{attempt}", 5)
            block = draw.block(shape, near, self._largest, Words(*words[:3]), (words[3], words[4]))
            share = 1.0 if self._presence is None else self._presence.valid_share(scene, block.window)
            if share >= self._sampling.min_valid:
                return block
            tried.append((share, block))
        return max(tried, key=lambda one: one[0])[1]
