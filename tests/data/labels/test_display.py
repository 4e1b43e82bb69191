"""Pictures of pixels and masks: right bands, right stretch, right colours."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.labels import display
from pipeline.data.labels.classes import IGNORE, Classes

CLASSES = Classes(("ground", "house", "road"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)), ((0,), (1,), (2,)))


@pytest.mark.parametrize(
    ("bands", "chosen"),
    [
        (["blue", "green", "red", "nir"], (2, 1, 0)),
        (["B02", "B03", "B04", "B08"], (2, 1, 0)),
        (["nir", "R", "G", "B"], (1, 2, 3)),
        (["B02", "B03", "B04", "red_edge"], (2, 1, 0)),
        (["B1", "B2", "B3", "B4", "B8A"], (3, 2, 1)),
        (["SR_B2", "SR_B3", "SR_B4", "SR_B5"], (2, 1, 0)),
        (["T32TQM_B02_10m", "T32TQM_B03_10m", "T32TQM_B04_10m"], (2, 1, 0)),
        (["Band 2 - Blue", "Band 3 - Green", "Band 4 - Red"], (2, 1, 0)),
        (["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"], (5, 3, 1)),
        (["Red Edge", "Green", "Blue", "NIR"], (0, 1, 2)),  # red edge is not red: no such three, so the first
        (["NIR", "R", "G"], (0, 1, 2)),
        (["red", "green"], (0, 0, 0)),
        (["band_1", "band_2", "band_3", "band_4"], (0, 1, 2)),
        (["vv", "vh", "ratio", "dem"], (0, 1, 2)),
        (["vv", "vh"], (0, 0, 0)),
    ],
)
def test_bands_to_show(bands, chosen):
    assert display.rgb_bands(bands) == chosen


def test_a_stretch_between_percentiles_of_valid_pixels():
    image = np.broadcast_to(np.linspace(100, 4100, 10_000).reshape(100, 100), (3, 100, 100)).copy()
    valid = np.ones((100, 100), bool)
    valid[:10] = False
    image[:, :10] = np.nan
    shown = display.stretch(image, valid)
    assert (shown[:10] == 0).all() and shown[-1, -1].tolist() == [255] * 3
    low, high = np.percentile(image[0][valid], (2, 98))
    assert shown[55, 50, 0] == pytest.approx(255 * (image[0, 55, 50] - low) / (high - low), abs=1)
    fixed = display.stretch(image, valid, [(0, 8200)] * 3)
    assert fixed[-1, -1].tolist() == pytest.approx([128] * 3, abs=1)
    assert (display.stretch(image, np.zeros_like(valid)) == 0).all()


def test_classes_lie_over_the_picture():
    shown = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    mask[:, 35:] = IGNORE
    out = display.overlaid(shown, mask, CLASSES)
    assert (out[:9, :9] == 100).all()  # black classes are not drawn
    assert out[20, 20].tolist() == [162, 60, 60]
    assert out[10, 20].tolist() == [255, 0, 0]  # the outline
    hatched = (out[:, 36:] != 100).any(-1)
    assert 0 < hatched.mean() < 0.5


def test_planes_of_several_classes_become_one():
    planes = np.zeros((3, 2, 2), np.uint8)
    planes[1, 0, 0] = planes[2, 0, 0] = planes[1, 0, 1] = 1
    planes[:, 1, 1] = IGNORE
    assert display.flat(planes, 254).tolist() == [[2, 1], [254, IGNORE]]
    assert display.flat(planes[0], 254) is not None
