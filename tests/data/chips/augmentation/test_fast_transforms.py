"""Fast equivalents against albumentations itself, for the same drawn parameters."""

from __future__ import annotations

import random

import albumentations
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.chips.augmentation import fast_transforms, transforms
from pipeline.data.chips.augmentation.augment import Augmentation
from pipeline.data.chips.sampling.order import words
from pipeline.recipe import Augment

DTYPES = {"uint8": 250, "uint16": 60_000, "float32": 1.0}
ELEMENTS = ["e", "r90", "r180", "r270", "v", "hvt", "h", "t"]


def pixels(dtype: str, bands: int = 4, size: int = 32, seed: int = 0) -> np.ndarray:
    """[H, W, C] with values from 0 to near the largest that albumentations expects."""
    values = np.random.default_rng(seed).random((size, size, bands)) * DTYPES[dtype]
    values.flat[:2] = 0, DTYPES[dtype]
    return values.astype(dtype)


def both(name: str, image: np.ndarray, seed: int, **arguments) -> tuple[np.ndarray, np.ndarray]:
    """What ours and theirs make of an image with equal generators."""
    ours = transforms.build(name, {**arguments, "p": 1.0}, 0.0, None)
    theirs = getattr(albumentations, name)(**arguments, p=1.0)
    found = []
    for transform in (ours, theirs):
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found.append(transform(image=image, mask=np.zeros(image.shape[:2], np.uint8))["image"])
    return found[0], found[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", [1, 3, 4, 7])
@given(
    seed=st.integers(0, 999),
    brightness=st.floats(0, 0.5),
    contrast=st.floats(0, 0.5),
    by_max=st.booleans(),
    safe=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_brightness_and_contrast(dtype, bands, seed, brightness, contrast, by_max, safe):
    ours, theirs = both(
        "RandomBrightnessContrast",
        pixels(dtype, bands, seed=seed),
        seed,
        brightness_limit=brightness,
        contrast_limit=contrast,
        brightness_by_max=by_max,
        ensure_safe_range=safe,
    )
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    close = {"uint8": 1, "uint16": 1, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=0, atol=close)


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@given(seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_multiplicative_noise(dtype, bands, per_channel, elementwise, seed):
    options = {"multiplier": (0.5, 1.5), "per_channel": per_channel, "elementwise": elementwise}
    ours, theirs = both("MultiplicativeNoise", pixels(dtype, bands), seed, **options)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=0, atol=1 if dtype == "uint8" else 1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_multiplication_of_other_data_saturates_only_at_the_dtypes_limits(dtype):
    image = np.array([[[30_000, 7], [0, -9 if dtype != "uint16" else 9]]]).astype(dtype)
    limit = np.iinfo(dtype).max if dtype != "float32" else np.inf
    wanted = np.minimum(image.astype(float) * 1.5, limit)
    np.testing.assert_allclose(fast_transforms.multiplied(image, 1.5, (-9, 30_000)), wanted, atol=0.51)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@given(seed=st.integers(0, 999), low=st.integers(30, 100), high=st.integers(100, 300))
@settings(max_examples=30, deadline=None)
def test_gamma(dtype, seed, low, high):
    ours, theirs = both("RandomGamma", pixels(dtype, seed=seed), seed, gamma_limit=(low, high))
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=0, atol=1 if dtype == "uint8" else 1e-5)
    if dtype == "uint8":
        assert np.array_equal(
            fast_transforms.gamma(pixels(dtype), 0.7, (0, 90)), fast_transforms.gamma(pixels(dtype), 0.7, None)
        )


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_gamma_beyond_eight_bits_is_relative_to_the_largest_value_of_the_data(dtype):
    image = (pixels("float32") * 3000).astype(dtype)
    wanted = 3000 * (image / 3000) ** 0.7
    np.testing.assert_allclose(
        fast_transforms.gamma(image, 0.7, (0, 3000)), wanted, atol=0.51 if dtype != "float32" else 0.01
    )
    whole = fast_transforms.gamma(image.astype("uint16"), 0.7, None)  # nothing known of the data
    np.testing.assert_allclose(whole, 65535 * (image.astype("uint16") / 65535) ** 0.7, atol=0.51)


def test_negative_values_have_no_gamma():
    with pytest.raises(ValueError, match=r"negative values \(down to -3\)"):
        fast_transforms.gamma(np.array([[-3, 5]], np.int16), 0.9, None)


@given(alpha=st.floats(0.5, 1.5), beta=st.floats(-500, 500))
def test_data_outside_zero_and_one_are_not_clipped(alpha, beta):
    image = np.random.default_rng(0).normal(0, 1000, (3, 16, 16))
    wanted = image.astype(np.float32) * alpha + beta
    np.testing.assert_allclose(
        fast_transforms.linear(image.astype(np.float32), alpha, beta, (-9e3, 9e3)), wanted, atol=0.01
    )
    whole = image.astype(np.int16)
    np.testing.assert_allclose(fast_transforms.linear(whole, alpha, beta, None), whole * alpha + beta, atol=0.51)
    # A chip that happens to lie in 0..1, of data that do not.
    dark = np.array([[[0.5, 1.0]]], np.float32)
    assert fast_transforms.linear(dark, 2, 0, (-5, 5)).max() == 2
    assert fast_transforms.linear(dark, 2, 0, (0, 1)).max() == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("element", ELEMENTS)
def test_turns_and_flips(element, dtype):
    theirs = albumentations.D4(p=1.0)
    for shape in ((5, 16, 16), (1, 7, 9)):
        image = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
        wanted = theirs.apply(image.transpose(1, 2, 0), group_element=element).reshape(-1, *[0] * 0).reshape(-1)
        got = fast_transforms.turned(image, element)
        assert np.array_equal(got.transpose(1, 2, 0).reshape(-1), wanted)
        assert np.array_equal(fast_transforms.turned(image[0], element), got[0])


@pytest.mark.parametrize("first", fast_transforms.GROUP)
@pytest.mark.parametrize("then", fast_transforms.GROUP)
def test_one_turn_stands_for_two(first, then):
    large = np.random.default_rng(0).integers(0, 60_000, (3, 40, 40)).astype(np.uint16)
    image = large[:, 3:24, 7:28]  # as a part of a larger one lies in memory
    expected = fast_transforms.turned(fast_transforms.turned(image, first), then)
    place = np.zeros((3, 21, 21), np.uint16)
    assert fast_transforms.turned(image, fast_transforms.composed(first, then), place) is place
    assert np.array_equal(place, expected)
    with pytest.raises(ValueError, match="contiguous"):
        fast_transforms.turned(image, then, place.transpose(0, 2, 1))


@pytest.mark.parametrize(
    "name", ["HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90", "D4", "SquareSymmetry", "NoOp"]
)
def test_exact_geometry_draws_what_albumentations_draws(name):
    """The whole way through, against the transform itself with the chip's generators."""
    image, mask = np.random.default_rng(0).integers(0, 999, (5, 24, 24)).astype(np.uint16), np.eye(24, dtype=np.uint8)
    ours = Augmentation([Augment(transform=name)], 7, (0,) * 5)
    for index in range(12):
        (key,) = words("augment", 7, 3, index, count=1)
        theirs = getattr(albumentations, name)()
        theirs.set_random_state(np.random.Generator(np.random.PCG64(key)), random.Random(key))
        wanted = theirs(image=image.transpose(1, 2, 0), mask=mask)
        got, marks = ours(image, mask, 3, index)
        assert np.array_equal(got.transpose(1, 2, 0), wanted["image"]) and np.array_equal(marks, wanted["mask"])


def test_tables_of_eight_and_sixteen_bits(monkeypatch):
    image = np.random.default_rng(0).integers(0, 3000, (3, 20, 20)).astype(np.uint16)
    table = np.random.default_rng(1).integers(0, 65535, 3000).astype(np.uint16)
    assert np.array_equal(fast_transforms.looked_up(image, table), table[image])
    assert np.array_equal(fast_transforms.looked_up(image.astype(np.int16), table), table[image])
    small = (image // 16).astype(np.uint8)
    assert np.array_equal(
        fast_transforms.looked_up(small, table[:256].astype(np.uint8)), table[:256].astype(np.uint8)[small]
    )
    monkeypatch.setattr(fast_transforms, "_wide_tables", lambda: False)  # as in OpenCV 4
    assert np.array_equal(fast_transforms.looked_up(image, table), table[image])
