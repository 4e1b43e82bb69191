"""What a recipe's `data.normalise` means: the numbers, why, and what it says when they do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipeline.data.chips.statistics import normalise, per_scene
from pipeline.data.chips.statistics.moments import Statistics, representable
from pipeline.data.chips.statistics.normalise import Normalisation
from pipeline.data.rasters.windows import Window
from pipeline.errors import RecipeError
from pipeline.recipe import pixels as recipe

SECTION = TypeAdapter(recipe.Normalise)
PIXELS = np.random.default_rng(0).gamma(2, 300, (3, 200, 200)).clip(0, 60_000).astype(np.uint16)
STATISTICS = Statistics.of(PIXELS.reshape(3, -1))
KINDS = [
    {"kind": "auto"},
    {"kind": "mean_std"},
    {"kind": "percentile"},
    {"kind": "percentile", "low": 0.5, "high": 99.5},
    {"kind": "scale", "factor": 1e-4, "offset": -0.1},
    {"kind": "scale", "factor": [1, 2, -0.5]},
    {"kind": "log"},
    {"kind": "log", "epsilon": 10},
    {"kind": "per_scene"},
]


def made(tree: dict, statistics: Statistics = STATISTICS, dtype: str = "uint16", pretrained: bool = True):
    return normalise.of(SECTION.validate_python(tree), statistics, dtype=dtype, pretrained=pretrained)


def test_normalised_values_equal_numpys():
    x = PIXELS.astype(float)
    mean, std = x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True)
    close = lambda tree, wanted, **k: np.testing.assert_allclose(made(tree).apply(PIXELS), wanted, **k)  # noqa: E731
    close({"kind": "mean_std"}, (x - mean) / std, atol=1e-5)
    close({"kind": "auto"}, (x - mean) / std, atol=1e-5)
    low, high = np.percentile(x, (2, 98), axis=(1, 2), keepdims=True)
    close({"kind": "percentile"}, (x.clip(low, high) - low) / (high - low) * 2 - 1, atol=0.01)
    close({"kind": "scale", "factor": 1e-4, "offset": -0.1}, x * 1e-4 - 0.1, atol=1e-5)
    close({"kind": "scale", "factor": [1, 2, -0.5]}, x * np.reshape([1, 2, -0.5], (3, 1, 1)), rtol=1e-5)
    logs = np.log(x + 1)
    wanted = (logs - logs.mean((1, 2), keepdims=True)) / logs.std((1, 2), keepdims=True)
    close({"kind": "log"}, wanted, atol=0.03)


@pytest.mark.parametrize("tree", KINDS, ids=str)
def test_the_fill_becomes_zero_within_the_rounding_of_the_dtype(tree):
    found = made(tree)
    fill = representable(found.fill, "uint16").reshape(3, 1, 1)
    step = np.abs(found.apply(fill + 1) - found.apply(fill)).max()
    assert np.abs(found.apply(fill)).max() <= 0.51 * step + 1e-6
    assert Normalisation.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.reason
    assert found.by_scene == (tree["kind"] == "per_scene")


def test_auto_takes_imagenet_for_three_bytes_and_a_pretrained_encoder():
    byte = Statistics.of((PIXELS // 300).reshape(3, -1))
    four = Statistics.of(np.concatenate([PIXELS, PIXELS[:1]]).reshape(4, -1))
    assert made({"kind": "auto"}, byte, "uint8").kind == "imagenet"
    for statistics, dtype, pretrained in ((byte, "uint8", False), (byte, "uint16", True), (four, "uint8", True)):
        found = made({"kind": "auto"}, statistics, dtype, pretrained)
        assert (found.kind, found.shift) == ("mean_std", statistics.mean)
    rgb = np.reshape([[124, 116, 104], [255, 0, 128]], (2, 3, 1, 1)).astype(np.uint8)
    wanted = (rgb / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    np.testing.assert_allclose(made({"kind": "imagenet"}, byte, "uint8").apply(rgb), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "imagenet"}, "imagenet is for three bands of uint8, the scenes have 3 bands of uint16"),
        ({"kind": "scale", "factor": [1, 2]}, "normalise.factor: 2 values for 3 bands"),
        ({"kind": "scale", "factor": 1, "offset": [1]}, "normalise.offset: 1 values for 3 bands"),
    ],
)
def test_what_does_not_fit_the_data(tree, message):
    with pytest.raises(RecipeError, match=message):
        made(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "percentile", "low": 60, "high": 40}, "low 60 must be smaller than high 40"),
        ({"kind": "scale", "factor": 0}, "must not be 0"),
        ({"kind": "scale", "factor": []}, "must not be 0"),
        ({"kind": "log", "epsilon": 0}, "greater than 0"),
        ({"kind": "minmax"}, "minmax"),
    ],
)
def test_what_a_recipe_cannot_say(tree, message):
    with pytest.raises(ValueError, match=message):
        SECTION.validate_python(tree)


def test_a_constant_band_is_only_centred_and_named(caplog):
    flat = Statistics.of(np.array([[7.0] * 500, [0.0] * 499 + [100.0]]))
    assert made({"kind": "mean_std"}, flat).scale[0] == 1
    found = made({"kind": "percentile"}, flat)
    assert found.apply(np.full((2, 1, 1), 7.0))[0] == 0
    assert "bands [2]: both percentiles are the same value" in caplog.text


def test_negative_values_of_radar_are_no_nan():
    float_radar = Statistics.of(np.random.default_rng(0).gamma(1, 0.1, (1, 5000)) - 0.001)
    found = made({"kind": "log"}, float_radar, "float32")
    assert found.epsilon == 1e-4
    assert np.isfinite(found.apply(np.array([[[-5.0, 0.0, 1e30]]], np.float32))).all()


# ------------------------------------------------------------------------------------------------ of each scene


def scene(height: int, width: int, gain: float = 1.0):
    rng = np.random.default_rng(1)
    pixels = (rng.gamma(2, 300, (2, height, width)) * gain).astype(np.float32)
    valid = rng.random((height, width)) > 0.1
    pixels[:, ~valid] = -1e9  # whatever lies there

    def read(window: Window):
        rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        return pixels[:, rows, cols].copy(), valid[rows, cols]

    return read, pixels, valid


def test_a_small_scene_has_mean_zero_and_deviation_one():
    read, pixels, valid = scene(300, 500)
    values = per_scene.measure(read, 300, 500)
    np.testing.assert_allclose(values.mean, pixels[:, valid].mean(axis=1), rtol=1e-4)
    normalised, seen = per_scene.reader(read, 300, 500)(Window(0, 0, 300, 500))
    assert normalised.dtype == np.float32 and (seen == valid).all() and (normalised[:, ~valid] == 0).all()
    np.testing.assert_allclose(normalised[:, valid].mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(normalised[:, valid].std(axis=1), 1, atol=1e-4)


def test_gain_of_the_device_cancels_and_training_agrees_with_prediction():
    dark, bright = (scene(400, 300, gain)[0] for gain in (1.0, 8.0))
    window = Window(10, 20, 100, 100)
    found = [per_scene.reader(read, 400, 300)(window)[0] for read in (dark, bright)]
    np.testing.assert_allclose(*found, atol=1e-4)
    values, (pixels, valid) = per_scene.measure(dark, 400, 300), dark(window)
    np.testing.assert_array_equal(values.apply(pixels, valid), found[0])


def test_an_image_in_memory_is_a_scene_by_itself():
    read, pixels, valid = scene(300, 200)
    pixels[:, ~valid] = np.nan
    found = per_scene.whole(pixels, valid)
    np.testing.assert_array_equal(found, per_scene.reader(read, 300, 200)(Window(0, 0, 300, 200))[0])
    assert np.isfinite(found).all()


def test_windows_of_a_large_scene_are_spread_over_rows_columns_and_slices():
    chosen = per_scene.windows(16 * 256, 10 * 256 - 7, slices=4)
    assert len(set(chosen)) == 16
    assert all(w.col + w.width <= 10 * 256 - 7 and w.row + w.height <= 16 * 256 for w in chosen)
    assert {w.slice for w in chosen} == {0, 1, 2, 3}
    assert len({w.col for w in chosen}) >= 5 and len({w.row for w in chosen}) >= 8
    assert list(per_scene.windows(300, 200)) == [Window(0, 0, 256, 200), Window(256, 0, 44, 200)]


def test_a_scene_without_a_valid_pixel_stays_finite():
    def empty(window: Window):
        return np.zeros((2, window.height, window.width)), np.zeros((window.height, window.width), bool)

    assert per_scene.measure(empty, 50, 50) == per_scene.SceneValues((0.0, 0.0), (1.0, 1.0))
