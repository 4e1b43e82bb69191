"""Findings about files: unreadable files, missing partners, grids, sizes."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from pipeline.data.doctor import access
from pipeline.data.doctor.findings import Finding, counted
from pipeline.data.doctor.gather import Gathered
from pipeline.data.scenes.discovery import PAIR_BY
from pipeline.data.scenes.inspection import BENT
from pipeline.data.scenes.pointer_files import Pointer
from pipeline.recipe.data import Quarantine

_MIXED_SIZES: Final = 1.5
_MOSTLY_INVALID: Final = 0.1
_BLANK: Final = 0.02
_COMMANDS: Final = 3


def findings(seen: Gathered) -> Iterator[Finding]:
    """Everything about files."""
    for message, hint in seen.problems:
        line = hint.removeprefix(PAIR_BY) if hint.startswith(PAIR_BY) else ""
        yield Finding(
            "scenes",
            "error",
            message,
            "Indexing refuses such a set, and training needs an index.",
            "labels have other names than images; this line pairs all of them" if line else hint,
            f"data:\n  {line}" if line else "",
            rank=0,
        )
    if seen.unmatched and not seen.problems:
        yield Finding(
            "spare_labels",
            "warning",
            f"{seen.unmatched[0].upper()}{seen.unmatched[1:]}.",
            "Nothing is learnt from them: their images may be missing, or be called otherwise.",
            "fetch the images, or let data.images and data.labels name the same files",
        )
    yield from _not_fetched(seen)
    yield from _broken(seen)
    yield from _coordinates(seen)
    yield from _unplaced(seen)
    yield from _small(seen)
    yield from _beside(seen)
    yield from _invalid(seen)
    yield from _blank(seen)


def _not_fetched(seen: Gathered) -> Iterator[Finding]:
    """Links to nothing and pointer files among images and labels, by what left them there."""
    of_kind: defaultdict[str, list[Pointer]] = defaultdict(list)
    for found in seen.pointers:
        of_kind[found.kind].append(found)
    for kind, of in sorted(of_kind.items()):
        commands = list(dict.fromkeys(p.command for p in of if p.command))
        what = "links that lead nowhere" if kind == "link" else f"files of which only what {kind} left is here"
        names = ", ".join(f"{p.path} -> {p.target}" if kind == "link" else p.path for p in of[:3])
        yield Finding(
            "not_fetched",
            "error",
            f"{len(of):,} {what}: {names}{' ...' if len(of) > 3 else ''}.",
            "Their content was not fetched, so they are not found, or cannot be read.",
            "fetch them" if commands else "make the links lead to files, or take them away",
            "\n".join(commands[:_COMMANDS]),
            rank=0,
        )


def _broken(seen: Gathered) -> Iterator[Finding]:
    broken = [(e.id, *problem) for e in seen.entries for problem in e.problems]
    broken += [(i, *s.problem) for i, s in seen.samples.items() if s.problem is not None]
    by_hint: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for i, message, hint in broken:
        by_hint[hint].append((i, message))
    tolerated = seen.recipe.data.on_error
    allowed = tolerated.max if isinstance(tolerated, Quarantine) else 0
    fine = len({i for i, *_ in broken}) <= allowed
    for hint, of in sorted(by_hint.items()):
        more = f" And {len(of) - 3} more." if len(of) > 3 else ""
        yield Finding(
            "broken_scenes",
            "warning" if fine else "error",
            "; ".join(message for _, message in of[:3]) + "." + more,
            f"The recipe tolerates up to {allowed} such scenes, and leaves them out."
            if fine
            else "A scene that cannot be read, or whose files do not fit together, ends indexing and training.",
            hint or "make or fetch the files again, or take them away",
            "" if fine else f"data:\n  on_error: {{kind: quarantine, max: {len({i for i, *_ in broken})}}}",
            tuple(sorted({i for i, _ in of})),
            rank=1,
        )


def _coordinates(seen: Gathered) -> Iterator[Finding]:
    systems: defaultdict[str, list[str]] = defaultdict(list)
    sizes: dict[str, float] = {}
    for e in seen.entries:
        if e.info is None:
            continue
        systems[access.short_crs(e.grid.crs) or "none"].append(e.id)
        across, shear, _, turn, down, _ = e.grid.transform
        if e.info.georeferenced:
            sizes[e.id] = abs(across * down - shear * turn) ** 0.5
    if len(systems) > 1:
        listed = ", ".join(f"{name} ({counted(len(ids), 'scene')})" for name, ids in systems.items())
        rare = min(systems.values(), key=len)
        yield Finding(
            "mixed_crs",
            "warning" if "none" in systems else "note",
            f"Scenes are in {len(systems)} coordinate systems: {listed}.",
            "Training works in pixels and does not mind. Distances on the ground, such as a buffer between splits, "
            "cannot be compared, and where a scene has none it cannot be seen whether it lies over another.",
            "nothing, if it is meant; else warp the scenes to one system",
            scenes=tuple(rare) if len(rare) < len(seen.entries) / 2 else (),
        )
    elif len(sizes) > 1 and min(sizes.values()) > 0 and max(sizes.values()) > _MIXED_SIZES * min(sizes.values()):
        yield _pixel_sizes(sizes)


def _unplaced(seen: Gathered) -> Iterator[Finding]:
    """Images that have control points and yet no coordinates, because they are bent."""
    bent = [e for e in seen.entries if e.info is not None and BENT in e.info.format]
    if not bent:
        return
    first = bent[0].image
    yield Finding(
        "bent_images",
        "warning",
        f"{counted(len(bent), 'image')} placed by control points that no affine transform fits to half a pixel: "
        "read without coordinates.",
        "Only sizes are compared with labels, vectors are taken for pixels, and where splits overlap cannot be seen.",
        "warp it by its control points, once, and use the result",
        f"gdalwarp -tps -r bilinear -co TILED=YES -co COMPRESS=DEFLATE {shlex.quote(first)} "
        f"{shlex.quote(first.rpartition('.')[0] + '.warped.tif')}",
        tuple(e.id for e in bent),
    )


def _pixel_sizes(sizes: dict[str, float]) -> Finding:
    usual = float(np.median(list(sizes.values())))
    others = sorted(i for i, s in sizes.items() if not usual / _MIXED_SIZES < s < usual * _MIXED_SIZES)
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    return Finding(
        "mixed_pixel_sizes",
        "warning",
        f"Pixels measure from {sizes[low]:.4g} ({low}) to {sizes[high]:.4g} ({high}) units of the coordinate system, "
        f"a factor of {sizes[high] / sizes[low]:.1f}.",
        "The same thing is so many times larger in one scene than in another, and the network must learn each size.",
        "resample the scenes to one pixel size, or let training see other sizes, too",
        f"data:\n  sampling: {{scale: [{1 / min(2.0, sizes[high] / sizes[low]):.2g}, "
        f"{min(2.0, sizes[high] / sizes[low]):.2g}]}}",
        tuple(others),
    )


def _small(seen: Gathered) -> Iterator[Finding]:
    size = seen.recipe.data.sampling.size
    small = [e for e in seen.entries if e.info is not None and min(e.grid.height, e.grid.width) < size]
    if not small:
        return
    sides = Counter(min(e.grid.height, e.grid.width) for e in small if e.info)
    padded = len(small) / len(seen.entries)
    yield Finding(
        "small_scenes",
        "warning" if padded > 0.1 else "note",
        f"{len(small)} of {len(seen.entries)} scenes are smaller than a chip of {size} pixels; the smallest side is "
        f"{min(sides)} pixels.",
        "What a chip holds beyond the scene is padding: it is computed and not learnt from.",
        "take a smaller chip",
        f"data:\n  sampling: {{size: {max(32, min(sides) // 32 * 32)}}}",
        tuple(e.id for e in small),
    )


def _beside(seen: Gathered) -> Iterator[Finding]:
    found = [e for e in seen.entries if e.misses]
    if found:
        yield Finding(
            "footprint_beside",
            "error" if len(found) == len(seen.entries) else "warning",
            f"{counted(len(found), 'scene')} outside the own footprint, such as {found[0].id}: no shape of "
            f"{found[0].misses} touches it.",
            "Outside its footprint a scene is not valid, so nothing of these is used.",
            "look whether data.footprint names the right files, and whether their CRS is what they say",
            scenes=tuple(e.id for e in found),
            rank=5,
        )


def _invalid(seen: Gathered) -> Iterator[Finding]:
    empty = [s.id for _, s in seen.usable if s.num_valid == 0]
    mostly = [s.id for _, s in seen.usable if 0 < s.num_valid < _MOSTLY_INVALID * s.num_pixels]
    if empty:
        every = len(empty) == len(seen.usable)
        yield Finding(
            "no_valid_pixel",
            "error" if every else "warning",
            f"{len(empty)} of {len(seen.usable)} scenes show no valid pixel where they were read.",
            "There is nothing to learn from them, and they lower the share of useful chips.",
            "check nodata of the files, data.nodata and data.footprint; take empty scenes away",
            scenes=tuple(empty),
            rank=5,
        )
    if mostly:
        yield Finding(
            "mostly_invalid",
            "warning",
            f"{counted(len(mostly), 'scene')} invalid in more than {1 - _MOSTLY_INVALID:.0%} of what was read.",
            "Most of their chips hold nothing.",
            "cut them to what was measured, or draw windows by what is valid",
            "data:\n  sampling: {min_valid: 0.5}",
            tuple(mostly),
        )


def _blank(seen: Gathered) -> Iterator[Finding]:
    found = [(s.blank, e.id) for e, s in seen.usable if s.blank > _BLANK and e.info and e.info.georeferenced]
    if found and seen.recipe.data.nodata is None:
        yield Finding(
            "undeclared_nodata",
            "warning",
            f"{counted(len(found), 'scene')} with flat areas of zeros in all bands that count as valid, up to "
            f"{max(found)[0]:.0%} of what was read.",
            "Where this is the border of a mosaic, training learns from places that were not measured, and statistics "
            "are wrong.",
            "look at the thumbnails; if zero means not measured, say so",
            "data:\n  nodata: 0",
            tuple(i for _, i in sorted(found, reverse=True)),
        )
