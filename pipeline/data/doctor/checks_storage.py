"""Findings about storage: bytes decoded per chip, and measured alternatives."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.data.doctor import access
from pipeline.data.doctor import read_plan as planning
from pipeline.data.doctor.findings import Entry, Finding, counted
from pipeline.data.doctor.gather import Gathered
from pipeline.data.rasters.grids import RasterInfo
from pipeline.data.rasters.windows import Window
from pipeline.errors import PipelineError
from pipeline.recipe.sampling import Uniform

_WHOLE_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
"""Formats that are decoded from the beginning, whatever their header calls a block."""
_SLOW: Final = 2.5
_MANY_CHIPS: Final = 4
_LARGE: Final = 4096
_TRIAL_SIDE: Final = 2048
_TRIALS: Final = 6
_WORTH: Final = 1.5
_MANY: Final = 0.1
_LOCALITY_WORTH: Final = 0.6


def findings(seen: Gathered) -> Iterator[Finding]:
    """Everything about how files are stored."""
    size = seen.recipe.data.sampling.size
    slow: defaultdict[tuple[str, tuple[int, int]], list[tuple[float, Entry]]] = defaultdict(list)
    flat = []
    for e in seen.entries:
        if e.info is None or min(e.info.tile) < 1:
            continue
        if is_slow(e.info, size):
            slow[(e.info.format, _kind_of_tile(e.info))].append((decoded(e.info, size), e))
        if min(e.grid.height, e.grid.width) >= _LARGE and len(e.info.levels) < 2:
            flat.append(e)
    for (kind, _), members in sorted(slow.items(), key=lambda item: -len(item[1])):
        yield from _slow(seen, kind, members)
    if flat:
        yield _no_overviews(seen, flat)
    yield from _locality(seen, {e.id for members in slow.values() for _, e in members})


def best_tile(size: int) -> tuple[int, int]:
    """Height and width of the tiles that suit chips of this size: small tiles waste less of what is decoded,
    large ones need fewer requests."""
    return (256, 256) if size <= 256 else (512, 512)


def decoded(info: RasterInfo, size: int) -> float:
    """Pixels that must be decoded for one chip at a random place, in chips of `size` × `size` pixels."""
    height, width = info.grid.height, info.grid.width
    if info.format.upper().startswith(_WHOLE_FORMATS):
        return max(1.0, height * width / size**2)
    return _blocks(height, width, info.tile, size)


def is_slow(info: RasterInfo, size: int) -> bool:
    """Whether a tiled copy would need far less decoding; not for scenes that are hardly larger than a chip."""
    height, width = info.grid.height, info.grid.width
    if height * width < _MANY_CHIPS * size**2:
        return False
    return decoded(info, size) > _SLOW * _blocks(height, width, best_tile(size), size)


@dataclass(frozen=True)
class TiledCopy:
    """Seconds per window of a file as it is, and of a tiled copy of a part of it."""

    now: float
    tiled: float

    @property
    def gain(self) -> float:
        """Speed-up of reading the copy."""
        return self.now / max(self.tiled, 1e-9)


def trial(entry: Entry, seen: Gathered) -> TiledCopy | None:
    """Read windows of a file and of a tiled copy of its middle; None where that fails."""
    if entry.info is None:
        return None
    height, width, size = entry.grid.height, entry.grid.width, seen.recipe.data.sampling.size
    side = max(size, min(_TRIAL_SIDE, height, width))
    part = Window(
        (height - min(side, height)) // 2, (width - min(side, width)) // 2, min(side, height), min(side, width)
    )
    places = planning.timed_windows(entry, size, _TRIALS)
    inside = [
        Window(
            w.row * (part.height - w.height) // max(1, height - w.height),
            w.col * (part.width - w.width) // max(1, width - w.width),
            w.height,
            w.width,
        )
        for w in places
    ]
    with tempfile.TemporaryDirectory(prefix="segpipe-doctor-") as folder:
        copy = Path(folder) / "tiled.tif"
        try:
            now = access.seconds(entry, places, seen.recipe.data)
            access.rewritten(entry, part, copy, seen.recipe.data)
            tiled = access.seconds(entry, inside, seen.recipe.data, instead=copy)
        except PipelineError:
            return None  # what is wrong with the file is said by others
    return TiledCopy(_median(now), _median(tiled))


def command(entry: Entry, size: int) -> str:
    """The command that rewrites an image in tiles."""
    target = entry.image.rpartition(".")[0] + ".tiled.tif"
    options = f"-co BLOCKSIZE={best_tile(size)[0]} -co COMPRESS=DEFLATE -co PREDICTOR=YES -co BIGTIFF=IF_SAFER"
    return f"gdal_translate -of COG {options} {shlex.quote(entry.image)} {shlex.quote(target)}"


def _slow(seen: Gathered, kind: str, members: Sequence[tuple[float, Entry]]) -> Iterator[Finding]:
    size = seen.recipe.data.sampling.size
    times, entry = max(members, key=lambda item: (item[0], item[1].id))
    measured = trial(entry, seen)
    if measured is not None and measured.gain < _WORTH:
        return
    ideal = _blocks(entry.grid.height, entry.grid.width, best_tile(size), size) if entry.info else 1.0
    blocks = f"{entry.info.tile[1]} × {entry.info.tile[0]}" if entry.info else ""
    stored = "as one piece" if entry.info and _is_whole(entry.info) else f"in blocks of {blocks} pixels"
    details = (
        f" Measured on {entry.id}: {1000 * measured.now:.1f} ms per chip now, {1000 * measured.tiled:.1f} ms from a "
        f"tiled copy, {measured.gain:.1f} times faster."
        if measured
        else ""
    )
    yield Finding(
        "slow_storage",
        "warning" if len(members) > _MANY * len(seen.entries) else "note",
        f"{counted(len(members), 'image')} ({kind or 'unknown format'}) stored {stored}: a chip of {size} pixels "
        f"decodes {times:.0f} times its own pixels; from tiles of {best_tile(size)[0]} it would be "
        f"{ideal:.0f}.{details}",
        "Reading is mostly decompression, and so much of it is thrown away.",
        "rewrite the images in tiles, once; with another ending, change data.images, too",
        command(entry, size),
        tuple(e.id for _, e in sorted(members, key=lambda item: -item[0])),
        rank=35,
    )


def _no_overviews(seen: Gathered, flat: Sequence[Entry]) -> Finding:
    used = (
        seen.recipe.data.sampling.scale is not None
        and seen.recipe.data.sampling.largest > seen.recipe.data.sampling.size
    )
    return Finding(
        "no_overviews",
        "warning" if used else "note",
        f"{counted(len(flat), 'large image')} without overviews.",
        "Windows at a smaller scale, as data.sampling.scale draws them, must read everything at the finest."
        if used
        else "Training reads the finest level only and does not mind; previews and viewers are slow.",
        "add overviews",
        f"gdaladdo -r average {shlex.quote(flat[0].image)} 2 4 8 16",
        tuple(e.id for e in flat),
        rank=55,
    )


def _locality(seen: Gathered, slow: set[str]) -> Iterator[Finding]:
    """Several chips from one block of tiles: worth saying where each chip decodes many tiles of its own."""
    sampling = seen.recipe.data.sampling
    if not isinstance(sampling, Uniform) or sampling.locality is not None:
        return
    fit = [
        e
        for e in seen.split("train")
        if e.info is not None
        and e.id not in slow
        and not _is_whole(e.info)
        and min(e.info.tile) >= 128
        and min(e.grid.height, e.grid.width) >= 3 * max(e.info.tile)
    ]
    if len(fit) < 0.5 * len(seen.split("train")) or not fit:
        return
    tile = max(max(e.info.tile) for e in fit if e.info)
    tiles = max(3, math.ceil((sampling.largest + tile - 1) / tile))
    alone = _blocks(10**6, 10**6, (tile, tile), sampling.size)
    together = (tiles * tile / sampling.size) ** 2 / 9
    if together > _LOCALITY_WORTH * alone:
        return
    yield Finding(
        "locality",
        "note",
        f"Images have tiles of {tile} pixels: a chip of {sampling.size} at a random place decodes {alone:.1f} times "
        f"its own pixels. Nine chips from each block of {tiles} × {tiles} tiles would decode {together:.1f}.",
        f"Reading would take about {together / alone:.0%} of the time.",
        "draw several chips from one block; batches are still shuffled over a pool of blocks",
        f"data:\n  sampling: {{kind: uniform, locality: {{tiles: {tiles}, chips: 9, tile: {tile}}}}}",
        rank=50,
    )


def _blocks(height: int, width: int, tile: tuple[int, int], size: int) -> float:
    """Mean number of decoded pixels per pixel of a window at a random place."""
    across = [
        min(-(-length // block) * block, ((min(size, length) - 1) / block + 1) * block)
        for length, block in ((height, tile[0]), (width, tile[1]))
    ]
    return across[0] * across[1] / size**2


def _kind_of_tile(info: RasterInfo) -> tuple[int, int]:
    """Strips are as wide as their image; they are one kind all the same."""
    return (info.tile[0], 0) if info.tile[1] >= info.grid.width else info.tile


def _is_whole(info: RasterInfo) -> bool:
    return info.format.upper().startswith(_WHOLE_FORMATS)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
