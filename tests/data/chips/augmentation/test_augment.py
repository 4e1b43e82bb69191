"""Augmentation: deterministic per chip, for any number of bands, and honest about what it cannot do."""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.chips.augmentation.augment import Augmentation, check
from pipeline.data.labels.classes import IGNORE
from pipeline.errors import RecipeError
from pipeline.recipe import Augment

RANDOM = [
    Augment(transform="HorizontalFlip"),
    Augment(transform="RandomRotate90"),
    Augment(transform="Affine", rotate=[-30, 30], scale=[0.7, 1.3]),
    Augment(transform="ElasticTransform", alpha=40, sigma=6),
    Augment(transform="RandomBrightnessContrast", brightness_by_max=False),
    Augment(transform="OneOf", transforms=["GaussianBlur", {"transform": "MotionBlur", "p": 1.0}], p=0.8),
    Augment(transform="CoarseDropout"),
]


def chip(bands: int = 4, size: int = 48, dtype: str = "uint16") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    image = rng.random((bands, size, size)) * (1 if dtype == "float32" else 200)
    return image.astype(dtype), rng.integers(0, 3, (size, size)).astype(np.uint8)


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_chip_does_not_depend_on_order_thread_or_process() -> None:
    data = chip()
    augment = Augmentation(RANDOM, seed=3, fill=(50, 60, 70, 80))
    keys = [(epoch, index) for epoch in range(3) for index in range(12)]
    wanted = {key: augment(*data, *key) for key in keys}
    backwards = {key: augment(*data, *key) for key in reversed(keys)}
    other = pickle.loads(pickle.dumps(augment))
    with ThreadPoolExecutor(6) as pool:
        threaded = dict(zip(keys, pool.map(lambda key: other(*data, *key), keys), strict=True))
    assert all(same(wanted[key], backwards[key]) and same(wanted[key], threaded[key]) for key in keys)
    assert len({wanted[key][0].tobytes() for key in keys}) == len(keys)

    code = """if True:
        import hashlib
        from tests.data.chips.augmentation.test_augment import RANDOM, Augmentation, chip
        image, mask = Augmentation(RANDOM, 3, (50, 60, 70, 80))(*chip(), 2, 11)
        print(hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    image, mask = wanted[2, 11]
    assert run.stdout.strip() == hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


def test_seeds_differ_and_flips_are_independent() -> None:
    data = chip()
    flips = [Augment(transform="HorizontalFlip"), Augment(transform="VerticalFlip")]
    seen = {Augmentation(flips, seed, ())(*data, 0, 0)[0].tobytes() for seed in range(40)}
    assert len(seen) == 4  # one seed for all transforms would flip both or none


def test_the_input_is_left_alone() -> None:
    image, mask = chip()
    before = image.copy(), mask.copy()
    for index in range(10):
        Augmentation(RANDOM, 0, (1, 2, 3, 4))(image, mask, 0, index)
    assert same((image, mask), before)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("transform", ["Affine", "ElasticTransform", "CropAndPad"])
def test_outside_is_ignored_and_filled(transform: str, bands: int, dtype: str) -> None:
    options = {
        "Affine": {"rotate": [30, 30], "scale": [0.5, 0.5]},
        "ElasticTransform": {"alpha": 300, "sigma": 5},
        "CropAndPad": {"px": 10},
    }[transform]
    fill = tuple(20.4 + 3 * band for band in range(bands))
    image, mask = np.full((bands, 40, 40), 100, dtype), np.ones((40, 40), np.uint8)
    got, marks = Augmentation([Augment(transform=transform, p=1.0, **options)], 0, fill)(image, mask, 0, 0)
    outside = marks == IGNORE
    wanted = np.array(fill if dtype == "float32" else np.round(fill)).astype(dtype)
    assert (got.shape, got.dtype, marks.dtype) == (image.shape, image.dtype, mask.dtype)
    assert got.flags.c_contiguous
    assert marks.flags.c_contiguous
    assert set(np.unique(marks)) == {1, IGNORE}
    assert np.array_equal(got[:, outside], np.repeat(wanted[:, None], outside.sum(), 1))


def test_fills_of_the_recipe_have_precedence() -> None:
    image, mask = np.full((3, 40, 40), 100, np.uint8), np.ones((40, 40), np.uint8)

    def values(**options):
        augment = Augment(transform="Affine", scale=[0.5, 0.5], p=1.0, **options)
        got, marks = Augmentation([augment], 0, (10, 20, 30))(image, mask, 0, 0)
        return got[:, 0, 0].tolist(), int(marks[0, 0])

    assert values() == ([10, 20, 30], IGNORE)
    assert values(fill=7.0) == ([7, 7, 7], IGNORE)
    assert values(fill_mask=0) == ([10, 20, 30], 0)
    assert values(fill=7.0, fill_mask=2) == ([7, 7, 7], 2)


def test_dropout_leaves_the_mask() -> None:
    image, mask = chip(bands=6)
    dropout = Augment(transform="CoarseDropout", p=1.0)
    got, marks = Augmentation([dropout], 0, (1,) * 6)(image, mask, 0, 0)
    assert (got == 0).any()
    assert np.array_equal(marks, mask)


def test_class_254_survives() -> None:
    mask = np.full((32, 32), 254, np.uint8)
    augment = Augment(transform="Affine", scale=[0.5, 0.5], p=1.0)
    _, marks = Augmentation([augment], 0, (0,))(np.ones((1, 32, 32), np.uint8), mask, 0, 0)
    assert set(np.unique(marks)) == {254, IGNORE}


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"transform": "HorizontalFlp"}, ["HorizontalFlp", "did you mean HorizontalFlip?"]),
        ({"transform": "check_version"}, ["no transform 'check_version'"]),
        ({"transform": "Affine", "rotatee": 3}, ["no argument 'rotatee'", "did you mean rotate?"]),
        ({"transform": "RandomCrop"}, ["RandomCrop", "height: Field required"]),
        ({"transform": "Affine", "mask_interpolation": 1}, ["mask_interpolation 1", "class ids"]),
        ({"transform": "Affine", "fill_mask": 300}, ["fill_mask 300"]),
        ({"transform": "FDA"}, ["more than one image"]),
        ({"transform": "BBoxSafeRandomCrop"}, ["more than one image"]),
        ({"transform": "CoarseDropout3D"}, ["more than one image"]),
        ({"transform": "OneOf"}, ["OneOf needs `transforms`"]),
        ({"transform": "OneOf", "transforms": ["HorizontalFlip", "VerticalFlp"]}, ["did you mean VerticalFlip?"]),
    ],
)
def test_what_the_recipe_cannot_say(augment: dict, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        check([Augment(transform="D4"), Augment.model_validate(augment)])
    for word in ["data.augment[1]", *words]:
        assert word in str(caught.value)
    assert "data.augment[0]" not in str(caught.value)


@pytest.mark.parametrize(
    ("augment", "dtype", "words"),
    [
        ({"transform": "RandomCrop", "height": 16, "width": 16}, "uint8", "makes 16×16 of a chip of 48×48"),
        ({"transform": "Resize", "height": 96, "width": 96}, "uint8", "data.sampling.size"),
        ({"transform": "GaussNoise"}, "uint16", "GaussNoise does not work on 4 bands of uint16"),
        ({"transform": "ToGray"}, "uint8", "ToGray does not work on 4 bands of uint8"),
        ({"transform": "ToGray"}, "uint8", "MultiplicativeNoise (per_channel: true), ChannelDropout"),
        ({"transform": "CLAHE"}, "uint16", "RandomBrightnessContrast (brightness_by_max: false) and RandomGamma"),
        ({"transform": "HueSaturationValue"}, "uint8", "ChannelShuffle change bands apart"),
        ({"transform": "RandomGamma"}, "float32", "a power of negative values"),
        ({"transform": "RandomBrightnessContrast"}, "uint16", "by up to 13107, the data only span 0 to 199"),
        ({"transform": "Normalize"}, "uint8", "the network normalises by itself: set data.normalise"),
        ({"transform": "OneOf", "transforms": ["D4", "ToFloat"]}, "uint8", "ToFloat has no place here"),
        ({"transform": "GaussianBlur", "p": 0.001}, "float32", "cuts values off: the data have -"),
    ],
)
def test_what_such_chips_cannot_take(augment: dict, dtype: str, words: str) -> None:
    example = chip(dtype=dtype)[0]
    if dtype == "float32":
        example = example * 4 - 1
    with pytest.raises(RecipeError, match=re.escape(words)):
        check([Augment.model_validate(augment)], example=example)


def test_all_problems_are_named_at_once_and_good_ones_pass() -> None:
    with pytest.raises(RecipeError) as caught:
        check([Augment(transform="Flipp"), Augment(transform="D4"), Augment(transform="D4", q=1)])
    assert "data.augment[0]" in str(caught.value)
    assert "data.augment[2]" in str(caught.value)
    for dtype in ("uint8", "uint16"):
        check(RANDOM, example=chip(dtype=dtype)[0])
    check([Augment(transform="D4"), Augment(transform="Affine")], example=chip(dtype="int16")[0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(
    "advised",
    [
        {"transform": "RandomBrightnessContrast", "brightness_by_max": False},
        {"transform": "MultiplicativeNoise", "per_channel": True},
        {"transform": "MultiplicativeNoise", "elementwise": True},
        {"transform": "ChannelDropout"},
        {"transform": "ChannelShuffle"},
        {"transform": "CoarseDropout"},
    ],
    ids=str,
)
def test_what_is_advised_works_on_everything(advised: dict, dtype: str) -> None:
    image, mask = chip(bands=5, dtype=dtype)
    if dtype in ("int16", "float32"):
        image = (image.astype(np.float32) * 50 - 30).astype(dtype)
    section = [Augment.model_validate(advised | {"p": 1.0})]
    check(section, example=image)
    got, marks = Augmentation(section, 0, (1,) * 5)(image, mask, 0, 1)
    assert got.dtype == image.dtype and np.array_equal(marks, mask) and not np.array_equal(got, image)


def test_a_size_that_changes_later_is_refused_then() -> None:
    augment = Augmentation([Augment(transform="RandomScale", p=1.0)], 0, (0, 0, 0, 0))
    with pytest.raises(RecipeError, match="RandomScale makes"):
        augment(*chip(), 0, 0)


def test_nothing_to_do_costs_nothing() -> None:
    image, mask = chip()
    got = Augmentation([], 0, (0,))(image, mask, 0, 0)
    assert got[0] is image
    assert got[1] is mask


# ------------------------------------------------------------------------------------------------ validity

GEOMETRIC = [
    {
        "transform": "Affine",
        "rotate": [-45, 45],
        "scale": [0.6, 1.4],
        "shear": [-10, 10],
        "translate_percent": [0, 0.2],
    },
    {"transform": "Affine", "rotate": [-45, 45], "interpolation": 2},
    {"transform": "Rotate", "limit": [-90, 90], "interpolation": 4},
    {"transform": "ElasticTransform", "alpha": 60, "sigma": 5},
    {"transform": "GridDistortion", "num_steps": 4},
    {"transform": "Perspective", "scale": [0.05, 0.2]},
    {
        "transform": "OneOf",
        "transforms": [{"transform": "Rotate", "p": 1.0}, {"transform": "ShiftScaleRotate", "p": 1}],
    },
    {"transform": "Sequential", "transforms": [{"transform": "Affine", "rotate": [20, 20], "p": 1}, "D4"]},
]


@pytest.mark.parametrize("augment", GEOMETRIC, ids=lambda a: a["transform"])
@given(hole=st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 20)] * 2), index=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_fill_never_leaks_into_valid_pixels(augment: dict, hole: tuple, index: int) -> None:
    """Everything valid is 1000; anything else in a valid pixel came from the fill of 0 by interpolation."""
    image, mask = np.full((2, 64, 64), 1000, np.float32), np.ones((64, 64), np.uint8)
    row, col, height, width = hole
    image[:, row : row + height, col : col + width] = 0
    mask[row : row + height, col : col + width] = IGNORE
    geometric = Augment.model_validate({"p": 1.0} | augment)
    got, marks = Augmentation([geometric], 0, (0.0, 0.0))(image, mask, 0, index)
    valid = marks != IGNORE
    np.testing.assert_allclose(got[:, valid], 1000, rtol=1e-5)
    assert (got[:, ~valid] == 0).all()
    assert valid.any()


def test_photometry_leaves_the_fill_of_invalid_pixels() -> None:
    image, mask = chip(dtype="uint16")
    image[:, :10], mask[:10] = np.reshape([50, 60, 70, 80], (4, 1, 1)), IGNORE
    mask[20:30] = IGNORE  # not labelled, but measured
    bright = Augment(transform="RandomBrightnessContrast", brightness_limit=[0.3, 0.3], brightness_by_max=False, p=1.0)
    got, marks = Augmentation([bright], 0, (50, 60, 70, 80))(image, mask, 0, 0)
    assert np.array_equal(got[:, :10], image[:, :10])
    assert (got[:, 20:30].astype(int).mean() > image[:, 20:30].astype(int).mean()) and np.array_equal(marks, mask)


def test_labels_of_single_points_survive() -> None:
    """Pixels that are only not labelled are good neighbours."""
    image, mask = chip(size=64)[0], np.full((64, 64), IGNORE, np.uint8)
    mask[::4, ::4] = 1
    rotate = Augment(transform="Rotate", limit=[30, 30], p=1.0)
    _, marks = Augmentation([rotate], 0, (1, 2, 3, 4))(image, mask, 0, 0)
    assert (marks == 1).sum() > 150


def test_several_masks_move_together() -> None:
    image, mask = chip(bands=6)
    masks = np.stack([mask, mask, 1 - mask.clip(max=1), mask, mask])
    augments = [Augment(transform=t, p=1.0) for t in ("D4", "Affine", "ElasticTransform", "CoarseDropout")]
    augments[1] = Augment(transform="Affine", rotate=[20, 20], p=1.0)
    _, one = Augmentation(augments, 0, (1,) * 6)(image, mask, 0, 5)
    _, many = Augmentation(augments, 0, (1,) * 6)(image, masks, 0, 5)
    valid = one != IGNORE
    assert many.shape == masks.shape and valid.any() and not valid.all()
    assert all(np.array_equal(many[k], one) for k in (0, 1, 3, 4))
    assert np.array_equal(many[2][valid], 1 - one[valid].clip(max=1)) and (many[2][~valid] == IGNORE).all()
