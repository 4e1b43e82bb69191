"""Pictures of an audit: footprints and histograms as inline SVG in the page's colours, thumbnails as PNG data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.data.doctor import scene_overlaps
from pipeline.data.doctor.distributions import BINS
from pipeline.data.doctor.findings import BandRow, Entry, Thumbnail
from pipeline.data.doctor.scene_overlaps import Footprint
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.labels.display import rgb_bands, stretch

SPLIT_NAMES: Final = ("train", "val", "test", "none", "all")
MAX_PLACES: Final = 8

_MAP: Final = (300.0, 220.0)
_MARGIN: Final = 14.0
_LEAST: Final = 5.0
_GRAPH: Final = (320.0, 90.0)
_ROUND: Final = (1, 2, 5)
_MAX_DRAWN: Final = 3000


def maps(entries: Sequence[Entry]) -> list[tuple[str, Markup]]:
    """A map of every place where scenes lie, the places with most scenes first: what it shows, and the SVG."""
    split_of = {e.id: e.split or "none" for e in entries}
    systems = scene_overlaps.by_crs(entries)
    found = [place for members in systems.values() for place in scene_overlaps.places(members)]
    found.sort(key=len, reverse=True)
    if len(found) > MAX_PLACES:
        found = [members for _, members in sorted(systems.items())]
    return [_map(members, split_of) for members in found[:MAX_PLACES]]


def histogram(band: BandRow) -> Markup:
    """One line per split, over the range of the band."""
    width, height = _GRAPH
    top = max((max(shares) for shares in band.histogram.values()), default=0.0) or 1.0
    lines = []
    for split, shares in band.histogram.items():
        steps = []
        for k, share in enumerate(shares):
            y = height - 4 - (height - 8) * math.sqrt(share / top)
            steps.append(f"{k * width / BINS:.1f},{y:.1f} {(k + 1) * width / BINS:.1f},{y:.1f}")
        kind = Markup("<polyline class='{}' points='{}'/>")
        lines.append(kind.format(f"line {split}", " ".join(steps)))
        if split == "train":
            area = Markup("<polygon class='area' points='0,{} {} {},{}'/>")
            lines.insert(0, area.format(height, " ".join(steps), width, height))
    marks = [
        Markup("<line class='mark' x1='{0}' x2='{0}' y1='0' y2='{1}'/>").format(round(x, 1), height)
        for x in ((band.percentiles[p] - band.low) / (band.high - band.low) * width for p in ("p2", "p50", "p98"))
        if 0 <= x <= width
    ]
    return Markup(
        "<svg class='graph' viewBox='0 0 {} {}' preserveAspectRatio='none' role='img' "
        "aria-label='Histogram of band {}, from {} to {}'>{}</svg>"
    ).format(width, height, band.name, f"{band.low:.4g}", f"{band.high:.4g}", Markup("").join([*marks, *lines]))


def pictures(thumbnail: Thumbnail, bands: Sequence[str], classes: Classes) -> tuple[str, str | None]:
    """Image and mask of a scene as PNG data URIs; no mask where nothing is annotated."""
    names = bands if len(bands) == len(thumbnail.pixels) else [""] * len(thumbnail.pixels)
    image = stretch(thumbnail.pixels[list(rgb_bands(names))], thumbnail.valid)
    alpha = np.where(thumbnail.valid, 255, 0).astype(np.uint8)
    shown = png(Image.fromarray(np.dstack([image, alpha])))
    if (thumbnail.mask == IGNORE).all():
        return shown, None
    picture = Image.fromarray(thumbnail.mask)
    palette = np.full((256, 3), 128, np.uint8)
    palette[: len(classes)] = classes.colors
    picture.putpalette(palette.tobytes())
    return shown, png(picture, transparency=IGNORE)


def png(picture: Image.Image, **options: Any) -> str:
    """As a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _map(members: Sequence[Footprint], split_of: Mapping[str, str]) -> tuple[str, Markup]:
    bounds = np.array([f.bounds for f in members])
    left, bottom = bounds[:, :2].min(axis=0).tolist()
    right, top = bounds[:, 2:].max(axis=0).tolist()
    scale = min((_MAP[0] - 2 * _MARGIN) / max(right - left, 1e-12), (_MAP[1] - 3 * _MARGIN) / max(top - bottom, 1e-12))
    shift = (_MAP[0] - scale * (right - left)) / 2, (_MAP[1] - _MARGIN - scale * (top - bottom)) / 2
    step = max(1, len(members) // _MAX_DRAWN)
    shapes = [_shape(f, split_of[f.id], left, top, scale, shift) for f in members[::step]]
    length = _ruler((right - left) / 3 or 1.0)
    text = _distance(length, members[0].crs)
    ruler = Markup("<path class='ruler' d='M{0} {2}v4h{1}v-4'/><text x='{0}' y='{3}'>{4}</text>").format(
        _MARGIN, round(length * scale, 1), _MAP[1] - 14, _MAP[1] - 17, text
    )
    counts = {split: sum(split_of[f.id] == split for f in members) for split in SPLIT_NAMES}
    said = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
    named = members[0].id if len(members) == 1 else f"{members[0].id} … {members[-1].id}"
    svg = Markup("<svg class='map' viewBox='0 0 {} {}' role='img' aria-label='Map of {} scenes'>{}{}</svg>").format(
        _MAP[0], _MAP[1], len(members), Markup("").join(shapes), ruler
    )
    return f"{named}: {said}", svg


def _shape(f: Footprint, split: str, left: float, top: float, scale: float, shift: tuple[float, float]) -> Markup:
    corners = [(shift[0] + scale * (x - left), shift[1] + scale * (top - y)) for x, y in f.corners]
    xs, ys = zip(*corners, strict=True)
    if max(xs) - min(xs) < _LEAST and max(ys) - min(ys) < _LEAST:
        dot = Markup("<circle class='{}' cx='{}' cy='{}' r='3'><title>{}</title></circle>")
        return dot.format(
            split, round((min(xs) + max(xs)) / 2, 1), round((min(ys) + max(ys)) / 2, 1), f"{f.id} ({split})"
        )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return Markup("<polygon class='{}' points='{}'><title>{}</title></polygon>").format(
        split, points, f"{f.id} ({split})"
    )


def _ruler(length: float) -> float:
    """The largest round number up to a length."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(n * power for n in _ROUND if n * power <= length * (1 + 1e-9))


def _distance(length: float, crs: str) -> str:
    """A length in the units of a CRS (WKT), for people."""
    if 'UNIT["met' in crs.lower().replace("unit", "UNIT"):
        return f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return f"{length:g}°" if "degree" in crs.lower() else f"{length:g} units"
