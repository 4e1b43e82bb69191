"""Windows and overlaps beyond reason: clipped where the scene is smaller, refused where no memory would do."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import rasterio

from pipeline.errors import RecipeError
from pipeline.prediction.blend import bounded
from pipeline.prediction.predict import predict
from pipeline.recipe import Predict
from tests.factory import make_pixels, recipe_for, write_raster
from tests.model import small


def section(**fields) -> Predict:
    return Predict(**{"window": 512, "overlap": 0.25, "batch": 4} | fields)


@pytest.mark.parametrize(
    ("window", "height", "width", "expected"),
    [(512, 256, 256, 512), (1024, 100, 100, 1024), (20_000, 256, 256, 1024), (1_000_000_000, 3000, 2000, 3008)],
)
def test_a_window_is_no_larger_than_the_scene_needs(window, height, width, expected):
    assert bounded(section(window=window), height, width).window == expected


def test_a_batch_is_no_larger_than_memory():
    assert bounded(section(window=8192, batch=64), 100_000, 100_000).batch == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 1_000_000_000}, r"predict\.window: 1000000000 is too large"),
        ({"overlap": 0.9999}, r"predict\.overlap: 0\.9999 predicts every pixel 100,000,000 times"),
    ],
)
def test_what_no_memory_or_time_would_do_is_refused(fields, message):
    with pytest.raises(RecipeError, match=message):
        bounded(section(**fields), 100_000, 100_000)


def test_a_bundle_that_asks_for_a_huge_window_predicts_a_small_scene(tmp_path):
    bundle = small.save(tmp_path / "bundle", num_bands=3, dtype="uint8", predict=section(window=20_000))
    write_raster(tmp_path / "a.tif", make_pixels(3, 200, 200, "uint8"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (written,) = predict(bundle, str(tmp_path / "a.tif"), str(tmp_path / "out"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB; it took more than 5 GiB
    with rasterio.open(written) as dataset:
        assert np.isin(dataset.read(1), (0, 1, 2)).all()


@pytest.mark.parametrize("asked", [{"window": 0}, {"window": -5}, {"overlap": 1.0}, {"overlap": -0.1}])
def test_windows_that_cannot_be_are_refused(tmp_path, asked):
    bundle = small.save(tmp_path / "bundle", num_bands=3, dtype="uint8")
    write_raster(tmp_path / "a.tif", make_pixels(3, 20, 20, "uint8"))
    with pytest.raises(RecipeError, match=next(iter(asked))):
        predict(bundle, str(tmp_path / "a.tif"), str(tmp_path / "out"), **asked)


@pytest.mark.parametrize(
    "override",
    [
        {"data.sampling.size": 1_000_000_000},
        {"train.global_batch": 1 << 40},
        {"train.steps": 1 << 60},
        {"seed": -1},
        {"seed": 1 << 63},
        {"predict.batch": 1 << 40},
    ],
)
def test_numbers_beyond_reason_are_refused_when_the_recipe_is_read(tmp_path, override):
    with pytest.raises(RecipeError, match=next(iter(override)).rpartition(".")[2]):
        recipe_for(tmp_path, **override)
