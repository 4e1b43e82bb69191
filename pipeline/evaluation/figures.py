"""Figures of a report: windows as PNG data URIs, curves as inline SVG. No file is touched."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.labels.display import flat, rgb_bands, stretch

MAX_SIDE = 384
"""Larger windows are scaled down to this many pixels, so that a report stays small enough to mail."""
WRONG = (230, 0, 126)
"""Colour of a wrong pixel; no default class colour is near it."""
NONE = 254
"""Of a multilabel task, in the place of a class id: a pixel of no class."""
_PAPER = (238, 238, 238)

_INK = "#7f7f7f"  # readable on the light and on the dark page
_LINES = ("#3b82c4", "#e07b39", "#4d9a5b", "#b65fb0", "#a08a2c", "#3aa6a0", "#c2515c", "#7a76c9")
_RATIO = re.compile(r"^val\.(miou|mdice|accuracy|iou\..+)$")


def window_pictures(
    image: NDArray[np.generic],
    valid: NDArray[np.bool_],
    bands: Sequence[str],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: Classes,
) -> dict[str, str]:
    """The four pictures of one window as PNG data URIs, each at most MAX_SIDE pixels wide and high.

    Args:
        image: [C,h,w] as read from the file.
        valid: [h,w], False where the file has no measurement.
        bands: names of the C bands; red, green and blue among them are shown as such.
        truth: [h,w] class ids and IGNORE, or a plane of 0, 1 and IGNORE for each class [K,h,w].
        prediction: as `truth`.
        classes: their colours.
    """
    shown = stretch(image[list(rgb_bands(bands))], valid)
    truth, prediction, wrong = flat(truth, NONE), flat(prediction, NONE), _differ(truth, prediction)
    return {
        "image": _png(Image.fromarray(np.dstack([shown, _opaque(valid)])), Image.Resampling.BOX),
        "label": _png(_colored(truth, classes)),
        "prediction": _png(_colored(prediction, classes)),
        "errors": _png(_errors(shown, *wrong)),
    }


def curves(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """SVG figures of a run's metrics: losses, scores on the val split, learning rate; only those that are there.

    Args:
        rows: each with `step` and any of `loss`, `loss.TERM`, `val.SCORE`, `lr`.
    """
    names = sorted({name for row in rows for name in row})
    scores = [n for n in names if _RATIO.match(n)]
    if len(scores) > len(_LINES):
        scores = [n for n in scores if not n.startswith("val.iou.")]  # a line per class would be a tangle
    panels = {
        "Loss": [n for n in names if n in ("loss", "val.loss") or n.startswith("loss.")],
        "Scores on the val split": scores,
        "Learning rate": [n for n in names if n == "lr" or n.startswith("lr.")],
    }
    drawn = [(title, {n: _series(rows, n) for n in chosen}) for title, chosen in panels.items()]
    return [_panel(title, lines) for title, lines in drawn if any(steps for steps, _ in lines.values())]


def _series(rows: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None and "step" in row]
    return [step for step, _ in points], [value for _, value in points]


def _panel(title: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> str:
    style = {
        "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
        "svg.hashsalt": title,  # the same ids each time, and other ids in each figure of the page
        "font.family": "sans-serif",
        "font.size": 10,
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),  # the page's own, light or dark
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    }
    with rc_context(style):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for position, (name, (steps, values)) in enumerate(lines.items()):
            marker = "o" if len(steps) < 30 else None
            axes.plot(steps, values, label=name, color=_LINES[position % len(_LINES)], marker=marker, ms=3, lw=1.6)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        if title == "Learning rate":
            axes.set_ylim(bottom=0)
        axes.grid(color=_INK, alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=9, ncols=2 if len(lines) > 4 else 1)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    return re.sub(r'\swidth="[^"]*"|\sheight="[^"]*"', "", body[: body.index(">")]) + body[body.index(">") :]


def _colored(ids: NDArray[np.uint8], classes: Classes) -> Image.Image:
    """Class ids in the classes' colours; IGNORE is transparent, so that the page's hatching shows."""
    picture = Image.fromarray(ids)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    palette[NONE] = _PAPER
    picture.putpalette(palette.tobytes())
    picture.info["transparency"] = IGNORE
    return picture


def _differ(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels where both are known, and pixels where they then differ; [h,w] both."""
    judged = (truth != IGNORE) & (prediction != IGNORE)
    wrong = judged & (truth != prediction)
    return (judged, wrong) if truth.ndim == 2 else (judged.any(0), wrong.any(0))


def _errors(shown: NDArray[np.uint8], judged: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> Image.Image:
    gray = (shown.mean(axis=2) * 0.6 + 50).astype(np.uint8)
    out = np.dstack([gray, gray, gray, _opaque(judged)])
    out[wrong, :3] = WRONG
    return Image.fromarray(out)


def _opaque(where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(where, 255, 0).astype(np.uint8)


def _png(picture: Image.Image, resample: Image.Resampling = Image.Resampling.NEAREST) -> str:
    """Resize by nearest neighbour by default: class ids and wrong pixels must not be averaged."""
    scale = MAX_SIDE / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, resample)
    buffer = io.BytesIO()
    transparency = {"transparency": IGNORE} if picture.mode == "P" else {}
    picture.save(buffer, "PNG", optimize=True, **transparency)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
