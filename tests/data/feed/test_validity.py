"""What lies under invalid pixels changes nothing: not statistics, chips, loss, gradients, metrics or predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping

from pipeline.data.chips import raw_chip
from pipeline.data.chips.statistics import compute
from pipeline.data.feed.plan import Plan
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters.grids import project
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import index
from pipeline.data.scenes.discovery import find
from pipeline.data.scenes.scene import Scene
from pipeline.metrics import confusion, predict_classes
from pipeline.model.losses import create_loss
from pipeline.model.networks import create_model
from pipeline.prediction.blend import stream
from pipeline.recipe import Recipe
from tests.data.feed.feed_world import cut
from tests.data.labels.places import geojson, in_utm
from tests.factory import TRANSFORM, UTM, make_pixels, recipe_for, write_raster

SIZE = 64
KINDS = ["nodata", "nodata in all bands", "recipe nodata", "nan", "inf", "mask band", "external mask", "alpha"]
KINDS.append("several")
FOOTPRINTS = {"vector footprint": "valid/{id}.geojson", "raster footprint": "valid/{id}.tif", "stac footprint": "stac"}
KINDS += list(FOOTPRINTS)
FILL = (10.0, 20.0, 30.0)
HIDDEN = (slice(4, 40), slice(10, 30))


def write_world(folder: Path, kind: str, seed: int) -> Path:
    """Two scenes that are the same for every seed, but for the values under their invalid pixels."""
    rng = np.random.default_rng(seed)
    for number in range(2):
        valid = np.ones((SIZE, SIZE), bool)
        valid[HIDDEN] = False
        floats = kind in ("nan", "inf", "several")
        pixels = make_pixels(3, SIZE, SIZE, "float32" if floats else "uint16", seed=number)
        noise = (rng.normal(0, 1e4, pixels.shape) if floats else rng.integers(0, 60_000, pixels.shape)).astype(
            pixels.dtype
        )
        pixels = np.where(valid, pixels, noise)
        image = folder / "images" / f"s{number}.tif"
        pixels, options = hidden(kind, pixels, valid, rng)
        write_raster(image, pixels, crs=UTM, transform=TRANSFORM, **options)
        if kind == "external mask":
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(image, "r+") as dataset:
                dataset.write_mask(valid)
            assert image.with_name(image.name + ".msk").exists()
        write_footprint(folder, kind, number, valid)
        label = (np.random.default_rng(number).random((SIZE, SIZE)) < 0.4).astype(np.uint8)
        write_raster(folder / "masks" / f"s{number}.tif", label, crs=UTM, transform=TRANSFORM)
    (folder / "splits.csv").write_text("id,split\ns0,train\ns1,train\n")
    return folder


def write_footprint(folder: Path, kind: str, number: int, valid: np.ndarray) -> None:
    """Say where a scene is valid beside its image: all of it but for a rectangle."""
    if kind not in FOOTPRINTS:
        return
    rows, cols = HIDDEN
    (around,) = in_utm([shapely.box(0, 0, SIZE, SIZE) - shapely.box(cols.start, rows.start, cols.stop, rows.stop)])
    (folder / "valid").mkdir(exist_ok=True)
    if kind == "vector footprint":
        geojson(folder / "valid" / f"s{number}.geojson", [around], UTM)
    elif kind == "raster footprint":
        write_raster(folder / "valid" / f"s{number}.tif", valid.astype(np.uint8), crs=UTM, transform=TRANSFORM)
    else:
        geometry = shapely.transform(around, lambda p: np.column_stack(project(p[:, 0], p[:, 1], UTM, "EPSG:4326")))
        path = folder / "items.json"
        items = json.loads(path.read_text())["features"] if path.exists() else []
        assets = {"image": {"href": f"images/s{number}.tif", "roles": ["data"]}}
        item = {"type": "Feature", "id": f"s{number}", "assets": assets, "geometry": mapping(geometry)}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [*items, item]}))


def hidden(
    kind: str, pixels: np.ndarray, valid: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, Any]]:
    """Mark pixels as invalid in one of the ways that files have; where one band tells, the others hold noise."""
    band = rng.integers(0, 3)
    if kind in ("nodata", "recipe nodata"):
        pixels[band][~valid] = 7
        pixels[:, valid] = np.where(pixels[:, valid] == 7, 8, pixels[:, valid])
        return pixels, {"nodata": 7} if kind == "nodata" else {}
    if kind == "nodata in all bands":
        return np.where(valid, pixels, 0), {"nodata": 0}
    if kind in ("nan", "inf"):
        pixels[band][~valid] = np.nan if kind == "nan" else rng.choice([-np.inf, np.inf])
        return pixels, {}
    if kind == "mask band":
        return pixels, {"mask": valid}
    if kind == "alpha":
        return np.concatenate([pixels, valid.astype(pixels.dtype)[None] * 65535]), {"alpha": True}
    if kind == "several":
        pixels[0, 4:20, 10:30], pixels[1, 20:40, 10:30] = np.nan, -9999
        return pixels, {"nodata": -9999}
    return pixels, {}


def recipe_of(folder: Path, kind: str) -> Recipe:
    said: dict[str, Any] = {"data.nodata": 7} if kind == "recipe nodata" else {}
    if kind in ("nodata", "recipe nodata", "several"):
        said["data.reading.nodata_rule"] = "any"
    if kind in FOOTPRINTS:
        said["data.footprint"] = FOOTPRINTS[kind]
    if kind == "stac footprint":
        said |= {"data.images": None, "data.scenes": "items.json"}
    return recipe_for(folder, **said, **{"data.sampling.size": 48})


def results(folder: Path, kind: str) -> dict[str, Any]:
    """All that is computed from a world: statistics, chips, a step of training, scores and a prediction."""
    torch.manual_seed(0)
    recipe = recipe_of(folder, kind)
    manifest = index.index(recipe)
    found = compute.compute(manifest, recipe.data)
    # The files do differ, and with them the version of the data, which decides which windows are drawn.
    plan = replace(Plan.of(manifest, found, recipe.data, 0), digest="the same")
    images, masks = plan.stack(range(4))
    network = create_model("unet", encoder="resnet10t", decoder_channels=[16, 12, 8, 8, 8], bands=3, classes=2)
    network.set_statistics(found.mean, found.std)
    logits = network(torch.from_numpy(images))
    mask = torch.from_numpy(masks)
    loss = create_loss(["cross_entropy", "dice"], 2)(logits, mask)
    loss.backward()
    network.eval()
    window = Window(0, 0, SIZE, SIZE)
    scene = manifest.scenes[0]
    strips = stream(
        network,
        lambda window: raw_chip.pixels(scene, window, data=recipe.data),
        SIZE,
        SIZE,
        num_classes=2,
        section=recipe.predict,
        fill=found.fill,
    )
    return {
        "statistics": found.to_json(),
        "images": images,
        "masks": masks,
        "loss": float(loss.detach()),
        "gradients": [p.grad.numpy() for p in network.parameters() if p.grad is not None],
        "confusion": confusion(predict_classes(logits.detach()), mask, 2).numpy(),
        "prediction": np.concatenate([prediction for _, prediction, _ in strips]),
        "valid": raw_chip.pixels(scene, window, data=recipe.data)[1],
    }


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_under_invalid_pixels_changes_nothing(tmp_path: Path, kind: str) -> None:
    first, second = (results(write_world(tmp_path / str(seed), kind, seed), kind) for seed in (1, 2))
    for name in first:
        assert_same(first[name], second[name])
    assert not first["valid"][HIDDEN].any() and first["valid"].sum() == SIZE * SIZE - 36 * 20
    assert (first["prediction"][HIDDEN] == IGNORE).all() and (first["prediction"][first["valid"]] < 2).all()
    assert (first["masks"] == IGNORE).any() and np.isfinite(first["loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_under_valid_pixels_changes_everything(tmp_path: Path, kind: str) -> None:
    folders = [write_world(tmp_path / str(number), kind, 1) for number in range(2)]
    with rasterio.open(folders[1] / "images" / "s0.tif", "r+") as dataset:
        dataset.write(dataset.read(1)[50:60, 40:50] + 50, 1, window=rasterio.windows.Window(40, 50, 10, 10))
    first, second = (results(folder, kind) for folder in folders)
    for name in ("statistics", "images", "loss", "gradients"):
        with pytest.raises(AssertionError):
            assert_same(first[name], second[name])


@given(kind=st.sampled_from(KINDS), seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)), at=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_window_shows_what_lies_under_invalid_pixels(
    tmp_path: Path, kind: str, seeds: tuple[int, int], at: st.DataObject
) -> None:
    corner, size = st.integers(-20, SIZE), st.integers(1, 48)
    window = Window(at.draw(corner), at.draw(corner), at.draw(size), at.draw(size))
    shape = at.draw(st.sampled_from([None, (24, 24), (60, 50)]))
    found = []
    for seed in seeds:
        folder = tmp_path / kind / str(seed)
        recipe = recipe_of(folder if folder.exists() else write_world(folder, kind, seed), kind)
        footprint = find(recipe.data)[0].footprint
        scene = replace(place(folder / "images" / "s0.tif", folder / "masks" / "s0.tif"), footprint=footprint)
        classes = Classes.from_section(recipe.data)
        found.append(cut(scene, window, classes, nodata=recipe.data.nodata, fill=FILL, data=recipe.data, shape=shape))
    assert_same(list(found[0]), list(found[1]))


def place(image: Path, label: Path, origin: tuple[int, int] = (0, 0), size: int = SIZE) -> Scene:
    x, y = TRANSFORM[2] + 10 * origin[1], TRANSFORM[5] - 10 * origin[0]
    where = (10.0, 0.0, x, 0.0, -10.0, y)
    return Scene("a", str(image), str(label), "train", "a", size, size, UTM, where, "", origin=origin)


def test_pixels_beyond_a_part_of_a_file_are_as_hidden_as_nodata(tmp_path: Path) -> None:
    chips = []
    for seed in (1, 2):
        pixels = make_pixels(3, SIZE, SIZE, "uint16", seed=seed)
        pixels[:, 20:50, 10:40] = make_pixels(3, 30, 30, "uint16", seed=0)
        label = np.random.default_rng(seed).integers(0, 2, (SIZE, SIZE)).astype(np.uint8)
        label[20:50, 10:40] = np.random.default_rng(0).integers(0, 2, (30, 30))
        image = write_raster(tmp_path / f"{seed}.tif", pixels, crs=UTM, transform=TRANSFORM)
        mask = write_raster(tmp_path / f"{seed}_mask.tif", label, crs=UTM, transform=TRANSFORM)
        recipe = recipe_of(tmp_path, "part")
        part, classes = place(image, mask, (20, 10), 30), Classes.from_section(recipe.data)
        chips.append(cut(part, Window(-8, -8, 48, 48), classes, nodata=None, fill=FILL, data=recipe.data))
    assert_same(list(chips[0]), list(chips[1]))
    assert (chips[0][1][8:38, 8:38] != IGNORE).all() and (chips[0][1] != IGNORE).sum() == 900


def test_statistics_are_those_of_the_valid_pixels(tmp_path: Path) -> None:
    recipe = recipe_of(write_world(tmp_path, "mask band", 1), "mask band")
    found = compute.compute(index.index(recipe), recipe.data)
    values = []
    for number in range(2):
        with rasterio.open(tmp_path / "images" / f"s{number}.tif") as dataset:
            values.append(dataset.read()[:, dataset.dataset_mask() > 0])
    pixels = np.concatenate(values, axis=1).astype(float)
    assert found.count == pixels.shape[1]
    np.testing.assert_allclose(found.mean, pixels.mean(axis=1))
    np.testing.assert_allclose(found.std, pixels.std(axis=1))


def test_ignored_pixels_have_no_gradient_and_no_score(tmp_path: Path) -> None:
    recipe = recipe_of(write_world(tmp_path, "nodata", 1), "nodata")
    manifest = index.index(recipe)
    plan = Plan.of(manifest, compute.compute(manifest, recipe.data), recipe.data, 0)
    _, masks = plan.stack(range(4))
    mask = torch.from_numpy(masks)
    logits = torch.randn(4, 2, 48, 48, requires_grad=True)
    for terms in (["cross_entropy"], ["dice"], ["cross_entropy", "dice"]):
        logits.grad = None
        create_loss(terms, 2)(logits, mask).backward()
        gradient = logits.grad
        assert gradient is not None
        where = (mask == IGNORE)[:, None].expand_as(gradient)
        assert (gradient[where] == 0).all() and (gradient[~where] != 0).any()
    counted = confusion(predict_classes(logits.detach()), mask, 2)
    assert int(counted.sum()) == int((mask != IGNORE).sum())


def test_padding_is_invalid_whatever_the_size_of_a_chip(tmp_path: Path) -> None:
    recipe = recipe_for(write_world(tmp_path, "nodata in all bands", 1), **{"data.sampling.size": 96})
    manifest = index.index(recipe)
    found = compute.compute(manifest, recipe.data)
    images, masks = Plan.of(manifest, found, recipe.data, 0).stack([0])
    inside = masks[0] != IGNORE
    assert inside.sum() == SIZE * SIZE - 36 * 20
    assert len(np.unique(images[0][:, ~inside], axis=1).T) == 1, "under all that is invalid lies one value"
