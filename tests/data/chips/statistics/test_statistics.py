import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline import store
from pipeline.data.chips.statistics import compute
from pipeline.data.chips.statistics.moments import Statistics
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.index import index
from pipeline.errors import ManifestError
from tests.factory import make_pixels, make_scene, recipe_for, world

bands = npst.arrays(
    np.float64, st.tuples(st.just(2), st.integers(0, 40)), elements=st.floats(-1e6, 1e6, allow_subnormal=False)
)


def close(a: Statistics, b: Statistics) -> None:
    assert a.count == b.count and a.class_counts == b.class_counts
    for first, second in zip((a.mean, a.min, a.max), (b.mean, b.min, b.max), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(a.std, b.std, rtol=1e-6, atol=1e-4)


# ------------------------------------------------------------------------------------------------ moments


@given(bands, bands, bands)
def test_merging_is_associative_and_equals_numpy(a, b, c):
    parts = [Statistics.of(x, (x.shape[1], 1)) for x in (a, b, c)]
    left = parts[0].merge(parts[1]).merge(parts[2])
    close(left, parts[0].merge(parts[1].merge(parts[2])))
    whole = np.concatenate([a, b, c], axis=1)
    assert left.count == whole.shape[1] and left.class_counts == (whole.shape[1], 3)
    if left.count:
        close(left, Statistics.of(whole, left.class_counts))
        np.testing.assert_allclose(left.std, whole.std(axis=1), rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal([left.min, left.max], [whole.min(axis=1), whole.max(axis=1)])


def test_small_differences_on_a_large_offset_are_not_lost():
    pixels = 1e9 + np.random.default_rng(0).normal(0, 1, (1, 100_000))
    parts = [Statistics.of(p) for p in np.array_split(pixels, 50, axis=1)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    assert total.std[0] == pytest.approx(pixels.std(), rel=1e-6)


@given(bands)
def test_json_keeps_every_bit(pixels):
    found = Statistics.of(pixels, (3, 4))
    assert Statistics.from_json(json.loads(json.dumps(found.to_json()))) == found


# ------------------------------------------------------------------------------------------------ of scenes


@pytest.fixture
def folder(tmp_path):
    return world(tmp_path, scenes=6, size=96, bands=4, dtype="uint16")


def pixels_of(manifest, split):
    chunks, labels = [], []
    for scene in manifest.split(split):
        window = Window(0, 0, scene.height, scene.width)
        pixels, valid = raster_io.read(scene.image, window)
        chunks.append(pixels[:, valid])
        labels.append(raster_io.read_label(scene.label, window)[0][valid])
    return np.concatenate(chunks, axis=1), np.concatenate(labels)


def test_valid_pixels_of_the_train_split_and_nothing_else(folder):
    recipe = recipe_for(folder)
    manifest = index(recipe)
    found = compute.compute(manifest, recipe.data)
    pixels, labels = pixels_of(manifest, "train")
    assert found.count == pixels.shape[1] == 4 * (96 * 96 - 48 * 24)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=1, dtype=float))
    np.testing.assert_allclose(found.std, pixels.std(axis=1, dtype=float))
    assert found.min == tuple(pixels.min(axis=1)) and min(found.min) > 0  # 0 is nodata
    assert found.class_counts == tuple(np.bincount(labels, minlength=2))
    assert found.fill == found.mean


@pytest.mark.parametrize(("dtype", "invalid"), [("float32", "nan"), ("uint8", "mask"), ("uint8", "alpha")])
def test_what_lies_under_invalid_pixels_changes_nothing(tmp_path, dtype, invalid):
    found = []
    for seed in (0, 1):
        pixels = make_pixels(2, 64, 64, dtype)
        pixels[:, :32, :16] = make_pixels(2, 32, 16, dtype, seed)
        folder = tmp_path / str(seed)
        make_scene(folder, pixels=pixels, dtype=dtype, invalid=invalid)
        recipe = recipe_for(folder, **{"data.split.test": 0})
        found.append(compute.compute(index(recipe), recipe.data))
    assert found[0] == found[1] and found[0].count == 64 * 64 - 32 * 16


def test_a_nodata_value_of_the_recipe_counts(folder):
    recipe = recipe_for(folder)
    manifest = index(recipe)
    darkest = int(pixels_of(manifest, "train")[0][0].min())
    recipe = recipe_for(folder, **{"data.nodata": darkest, "data.reading.nodata_rule": "any"})
    found = compute.compute(index(recipe), recipe.data)
    assert found.min[0] > darkest and found.count < compute.compute(manifest, recipe_for(folder).data).count


def test_a_sample_is_spread_over_scenes_and_columns(tmp_path):
    ramp = np.broadcast_to(np.arange(2560) // 20, (2560, 2560)).astype(np.uint8)[None]
    for i in range(2):
        make_scene(tmp_path, f"s{i}", pixels=ramp // (i + 1), label=np.zeros((2560, 2560), np.uint8))
    # every fifth window: a plain stride would always take the same column of five
    recipe = recipe_for(tmp_path, **{"data.split.test": 0, "data.statistics_pixels": 2 * 2560 * 512})
    manifest = index(recipe)
    found = compute.compute(manifest, recipe.data)
    assert found.count == 10 * 512 * 512
    assert found.max[0] - found.min[0] > 100
    assert compute.compute(manifest, recipe.data) == found


def test_scenes_without_labels_have_no_class_counts(tmp_path):
    make_scene(tmp_path, label_ending=None)
    recipe = recipe_for(tmp_path, **{"data.split.test": 0, "data.labels": None})
    assert compute.compute(index(recipe), recipe.data).class_counts == (0, 0)


def test_no_valid_pixel_at_all(tmp_path):
    make_scene(tmp_path, pixels=np.full((1, 64, 64), 7, np.uint8), label_ending=None)
    recipe = recipe_for(tmp_path, **{"data.split.test": 0, "data.nodata": 7, "data.labels": None})
    with pytest.raises(ManifestError, match="no valid pixel among 1 scenes of the train split"):
        compute.compute(index(recipe), recipe.data)


def test_a_constant_band_is_named_in_the_log(tmp_path, caplog):
    make_scene(tmp_path, pixels=np.full((1, 64, 64), 7, np.uint8), names=("qa",))
    recipe = recipe_for(tmp_path, **{"data.split.test": 0})
    compute.compute(index(recipe), recipe.data)
    assert "band qa has the same value in every pixel" in caplog.text


def test_cached_statistics_are_computed_once_for_each_manifest_and_sample(folder):
    recipe = recipe_for(folder)
    manifest = index(recipe)
    found = compute.cached(recipe, manifest)
    uri = str(folder / "runs" / "tiny" / "statistics" / f"{manifest.digest[:12]}.json")
    for scene in manifest.scenes:
        store.remove(scene.image)  # a second look would fail
    assert compute.cached(recipe, manifest) == found == Statistics.from_json(store.read_json(uri)["statistics"])
    world(folder, scenes=6, size=96, bands=4, dtype="uint16")
    fewer = compute.cached(recipe_for(folder, **{"data.statistics_pixels": 10_000}), manifest)
    assert fewer.count < found.count


def test_jobs_measured_anywhere_and_merged_in_their_order_give_the_same_to_the_bit(folder):
    recipe = recipe_for(folder)
    manifest = index(recipe)
    jobs = pickle.loads(pickle.dumps(compute.jobs(manifest, recipe.data)))
    parts = [compute.measure(job, manifest.classes, recipe.data) for job in reversed(jobs)][::-1]
    parts = [Statistics.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]  # as they travel
    assert len(jobs) == 4 and compute.total(manifest, parts) == compute.compute(manifest, recipe.data)


def test_percentiles_and_histograms_are_of_the_valid_pixels(folder):
    recipe = recipe_for(folder)
    manifest = index(recipe)
    found, pixels = compute.compute(manifest, recipe.data), pixels_of(manifest, "train")[0]
    for percent, values in zip((2, 50, 98), np.transpose(found.percentiles((2, 50, 98))), strict=True):
        ranks = [(band <= value).mean() * 100 for band, value in zip(pixels, values, strict=True)]
        np.testing.assert_allclose(ranks, percent, atol=1)
    shares = found.sketches[0].histogram([2000, 4000])
    np.testing.assert_allclose(np.cumsum(shares)[:2], [(pixels[0] < v).mean() for v in (2000, 4000)], atol=0.01)


def test_statistics_of_an_older_version_are_computed_anew(folder):
    recipe = recipe_for(folder)
    manifest = index(recipe)
    found = compute.cached(recipe, manifest)
    uri = str(folder / "runs" / "tiny" / "statistics" / f"{manifest.digest[:12]}.json")
    entry = store.read_json(uri)
    del entry["statistics"]["sketches"], entry["made_of"]["version"]
    store.write_json(uri, entry)
    assert Statistics.from_json(entry["statistics"]).mean == found.mean  # it can still be read
    assert compute.cached(recipe, manifest) == found


def test_every_slice_of_a_volume_counts():
    windows = compute._windows([(600, 500, 3)], 10**9)
    assert {w.slice for _, w in windows} == {0, 1, 2} and len(windows) == 6
    assert sum(w.height * w.width for _, w in windows) == 600 * 500 * 3
