"""The halo: geometry brings in what lies beside the chip, and nothing is filled inside a scene."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.chips.augmentation import augment
from pipeline.data.chips.augmentation.augment import Augmentation
from pipeline.data.labels.classes import IGNORE
from pipeline.recipe import Augment

SIZE = 64
NO_MARGIN = [
    [],
    ["D4", "HorizontalFlip", "RandomRotate90", "Transpose"],
    [{"transform": "RandomGamma"}, "GaussianBlur", "CoarseDropout"],
    [{"transform": "Rotate", "limit": 30, "p": 0.0}],
    [{"transform": "Affine", "scale": [1.0, 1.5]}],
    [{"transform": "Rotate", "limit": 30}, {"transform": "RandomResizedCrop", "size": [SIZE, SIZE]}],
]
GEOMETRIC = [
    [{"transform": "Rotate", "limit": [-45, 45], "p": 1.0}],
    [{"transform": "Rotate", "limit": [45, 45], "p": 1.0}],
    [{"transform": "Affine", "rotate": [-180, 180], "p": 1.0}],
    [{"transform": "Affine", "scale": [0.7, 1.3], "p": 1.0}],
    [{"transform": "Affine", "shear": [-20, 20], "p": 1.0}],
    [{"transform": "Affine", "translate_px": [-9, 9], "p": 1.0}],
    [{"transform": "Affine", "translate_percent": [-0.1, 0.1], "rotate": [-10, 10], "p": 1.0}],
    [{"transform": "ShiftScaleRotate", "p": 1.0}],
    [{"transform": "ElasticTransform", "alpha": 40, "sigma": 6, "p": 1.0}],
    [{"transform": "Rotate", "limit": 20, "p": 1.0}, "D4", {"transform": "Affine", "scale": [0.8, 1], "p": 1.0}],
    [{"transform": "OneOf", "transforms": [{"transform": "Rotate", "limit": 45}, "ElasticTransform"], "p": 1.0}],
]


def section(items: list) -> list[Augment]:
    return [Augment.model_validate({"transform": item} if isinstance(item, str) else item) for item in items]


def scene(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Gradients along rows and columns, and a mask that follows them."""
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    return np.stack([1000 + rows, 1000 + cols]), (rows // 16 % 2).astype(np.uint8)


@pytest.mark.parametrize("items", NO_MARGIN, ids=str)
def test_nothing_more_is_read_where_nothing_is_needed(items):
    assert augment.margin(section(items), SIZE) == 0


@pytest.mark.parametrize("items", GEOMETRIC, ids=str)
def test_inside_a_scene_nothing_is_filled(items):
    augments = section(items)
    margin = augment.margin(augments, SIZE)
    assert 0 < margin <= SIZE
    image, mask = scene(SIZE + 2 * margin)
    augmented = Augmentation(augments, 0, (0.0, 0.0), size=SIZE)
    for index in range(30):
        got, marks = augmented(image, mask, 0, index)
        assert got.shape == (2, SIZE, SIZE) and marks.shape == (SIZE, SIZE)
        assert (marks != IGNORE).all()
        assert got.min() >= 999


def test_the_margin_of_a_turn_is_what_geometry_says():
    assert augment.margin(section([{"transform": "Rotate", "limit": [45, 45]}]), 512) == pytest.approx(
        512 * (2**0.5 - 1) / 2, abs=4
    )
    assert augment.margin(section([{"transform": "Rotate", "limit": [-10, 10]}]), 512) < 50
    assert augment.margin(section([{"transform": "Affine", "scale": [0.1, 1]}]), 512) == 512  # no more than that


def test_a_gradient_stays_a_gradient_and_the_edge_of_the_scene_is_ignored():
    """A turn by 45° about the centre, compared with the gradient computed; the scene ends in the middle of the halo."""
    augments = section([{"transform": "Rotate", "limit": [45, 45], "p": 1.0}])
    margin = augment.margin(augments, SIZE)
    image, mask = scene(SIZE + 2 * margin)
    mask[:, : margin + 5], image[:, :, : margin + 5] = IGNORE, 0  # outside, as chips are cut
    got, marks = Augmentation(augments, 0, (0.0, 0.0), size=SIZE)(image, mask, 0, 0)
    rows, cols = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    # Counter-clockwise by 45°: the pixel at (row, col) comes from this place in the scene.
    source_row, source_col = (rows + cols) / 2**0.5, (cols - rows) / 2**0.5
    centre = 1000 + margin + (SIZE - 1) / 2
    valid = marks != IGNORE
    np.testing.assert_allclose(got[0][valid], (centre + source_row)[valid], atol=0.1)
    np.testing.assert_allclose(got[1][valid], (centre + source_col)[valid], atol=0.1)
    beyond = centre + source_col - 1000 < margin + 5
    assert (marks[beyond] == IGNORE).all() and (got[:, beyond] == 0).all()
    inside = centre + source_col - 1000 > margin + 5 + 2
    assert valid[inside].all() and inside.any() and beyond.any()


def test_what_is_not_moved_is_the_centre():
    augments = section([{"transform": "Rotate", "limit": 45, "p": 0.5}, "HorizontalFlip"])
    margin = augment.margin(augments, SIZE)
    image, mask = scene(SIZE + 2 * margin)
    augmented = Augmentation(augments, 0, (0.0, 0.0), size=SIZE)
    centre = image[:, margin:-margin, margin:-margin]
    found = [augmented(image, mask, 0, index)[0] for index in range(40)]
    assert any(np.array_equal(got, centre) for got in found)
    assert any(np.array_equal(got, centre[:, :, ::-1]) for got in found)


def test_dropout_after_geometry_sees_the_chip_alone():
    augments = section([{"transform": "Rotate", "limit": 45, "p": 1.0}, {"transform": "CoarseDropout", "p": 1.0}])
    margin = augment.margin(augments, SIZE)
    image, mask = scene(SIZE + 2 * margin)
    got, marks = Augmentation(augments, 0, (5.0, 5.0), size=SIZE)(image, mask, 0, 1)
    holes = (got == 0).all(axis=0)
    assert 0 < holes.mean() <= 2 * 0.2**2 and (marks != IGNORE).all()
