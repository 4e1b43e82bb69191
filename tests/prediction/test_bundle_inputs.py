"""Which bands of an image a bundle takes, and what predict says about images unlike those of the training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import from_origin

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.grids import Grid, pixel_size
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.model import bundle as bundles
from pipeline.model.bundle import Bundle
from pipeline.prediction import bundle_inputs
from pipeline.prediction.predict import predict
from pipeline.recipe.data import Reading
from tests.factory import TRANSFORM, UTM, make_pixels, write_raster
from tests.model import small

NAMES = ("B02", "B03", "B04")


def bundle_of(folder: Path, **changes: object) -> Bundle:
    return small.save(folder / "bundle", **{"num_bands": 3, "bands": NAMES, "file_bands": NAMES, **changes})


def recipe(**data: object) -> dict[str, object]:
    return {"name": "small", "data": {"nodata": None, **data}}


def numbers(bundle: Bundle, folder: Path, names: tuple[str, ...], bands: int = 0) -> tuple[list[int], str]:
    """Numbers of the bands that are read, and the warnings."""
    count = bands or len(names)
    pixels = np.arange(1, count + 1, dtype=np.uint16)[:, None, None] * np.ones((1, 8, 8), np.uint16)
    uri = str(write_raster(folder / "a.tif", pixels, names=names))
    found = bundle_inputs.fitted(uri, bundle)
    image, _ = raster_io.read(uri, Window(0, 0, 8, 8), reading=found.reading)
    return image[:, 0, 0].tolist(), " | ".join(found.warnings)


def test_bands_are_taken_by_name(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    assert numbers(bundle, tmp_path, NAMES) == ([1, 2, 3], "")
    assert numbers(bundle, tmp_path, ("b04", "b03", "b02")) == ([3, 2, 1], "")
    assert numbers(bundle, tmp_path, (*NAMES, "B08")) == ([1, 2, 3], "")
    assert numbers(bundle, tmp_path, ("B08", "B03", "x", "B02", "B04")) == ([4, 2, 5], "")
    with pytest.raises(SceneError, match=r"B03, B04, B08 \(3\) where the bundle expects .*: it lacks B02"):
        numbers(bundle, tmp_path, ("B03", "B04", "B08"))


def test_bands_without_names_are_taken_with_a_warning(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    assert numbers(bundle, tmp_path, (), 3) == (
        [1, 2, 3],
        "it does not name its bands; in file order they are taken as B02, B03, B04",
    )
    assert numbers(bundle, tmp_path, ("Band 1", "Band 2", "Band 3"))[1].startswith("it does not name its bands")
    with pytest.raises(SceneError, match=r"\(4\) where the bundle expects"):
        numbers(bundle, tmp_path, (), 4)


def test_a_bundle_of_bands_without_names(tmp_path: Path) -> None:
    unnamed = ("band_1", "band_2", "band_3")
    bundle = bundle_of(tmp_path, bands=unnamed, file_bands=unnamed)
    assert numbers(bundle, tmp_path, (), 3) == ([1, 2, 3], "")
    found, said = numbers(bundle, tmp_path, NAMES)
    assert found == [1, 2, 3] and "its bands B02, B03, B04 are taken in file order" in said


def test_bands_that_the_recipe_named_anew(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, bands=("blue", "green", "red"), recipe=recipe(bands=["blue", "green", "red"]))
    assert numbers(bundle, tmp_path, ("B04", "B03", "B02")) == ([3, 2, 1], "")
    assert numbers(bundle, tmp_path, ("red", "green", "blue")) == ([3, 2, 1], "")
    with pytest.raises(SceneError, match="it lacks B02, B03, B04"):
        numbers(bundle, tmp_path, ("x", "y", "z"))
    # Of an older version nobody knows what the files called them.
    older = bundle_of(tmp_path, bands=("blue", "green", "red"), file_bands=(), recipe=recipe(bands=["b", "g", "r"]))
    assert numbers(older, tmp_path, NAMES)[0] == [1, 2, 3] and "in file order" in numbers(older, tmp_path, NAMES)[1]
    with pytest.raises(SceneError, match="it lacks blue"):
        numbers(older, tmp_path, ("red", "green", "nir"))


def test_bands_that_the_recipe_chose(tmp_path: Path) -> None:
    by_number = bundle_of(tmp_path, recipe=recipe(reading={"bands": [4, 3, 2]}))
    assert numbers(by_number, tmp_path, NAMES) == ([1, 2, 3], "")
    assert numbers(by_number, tmp_path, (), 5)[0] == [4, 3, 2]
    by_name = bundle_of(tmp_path, recipe=recipe(reading={"bands": list(NAMES)}))
    assert numbers(by_name, tmp_path, ("B08", "B04", "B03", "B02")) == ([4, 3, 2], "")
    assert numbers(by_name, tmp_path, (), 3)[0] == [1, 2, 3]
    with pytest.raises(SceneError):
        numbers(by_name, tmp_path, (), 4)


def test_bands_without_names_that_the_recipe_chose_by_number(tmp_path: Path) -> None:
    names = ("band_12", "band_3", "band_1")
    bundle = bundle_of(tmp_path, bands=names, file_bands=names, recipe=recipe(reading={"bands": [12, 3, 1]}))
    assert numbers(bundle, tmp_path, (), 12) == ([12, 3, 1], "")
    assert numbers(bundle, tmp_path, (), 3)[0] == [1, 2, 3] and "in file order" in numbers(bundle, tmp_path, (), 3)[1]
    with pytest.raises(SceneError):
        numbers(bundle, tmp_path, (), 4)


def test_predictions_are_those_of_the_bands_in_order(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    pixels = make_pixels(4, 64, 64, "uint16").clip(100, 300)
    write_raster(tmp_path / "in" / "plain.tif", pixels[:3], names=NAMES)
    write_raster(tmp_path / "in" / "other.tif", pixels[[3, 2, 0, 1]], names=("B08", "b04", "B02", "B03"))
    first, second = predict(bundle, [f"{tmp_path}/in/{n}.tif" for n in ("plain", "other")], str(tmp_path / "out"))
    with rasterio.open(first) as one, rasterio.open(second) as other:
        np.testing.assert_array_equal(one.read(), other.read())
        assert len(np.unique(one.read())) > 1


def test_bundles_from_before_the_rule_judge_nodata_by_any_band(tmp_path: Path) -> None:
    pixels = make_pixels(3, 64, 64, "uint16").clip(100, 300)
    pixels[1, :8] = 0
    write_raster(tmp_path / "a.tif", pixels, names=NAMES, nodata=0)
    for rule, hidden in (({}, True), ({"reading": {"nodata_rule": "all"}}, False)):
        bundle = bundle_of(tmp_path, recipe=recipe(**rule))
        (written,) = predict(bundle, str(tmp_path / "a.tif"), str(tmp_path / "out"), overwrite=True)
        with rasterio.open(written) as out:
            assert (out.read(1)[:8] == 255).all() == hidden and (out.read(1)[8:] != 255).all()


def test_what_older_bundles_lack(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, pixel_size=(10.0, 20.0, "m"))
    assert bundles.load(bundle.uri).pixel_size == (10.0, 20.0, "m")
    path = Path(bundle.uri) / bundles.META
    tree = json.loads(path.read_text())
    del tree["file_bands"], tree["pixel_size"]
    older = Bundle.from_json(bundle.uri, tree)
    assert older.file_bands == () and older.pixel_size is None
    assert numbers(older, tmp_path, ("B04", "B03", "B02"))[0] == [3, 2, 1]


# --- images unlike those of the training


def warned(bundle: Bundle, uri: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    predict(bundle, str(uri), str(folder / "out"), overwrite=True)
    return " | ".join(r.getMessage() for r in caplog.records if r.levelname == "WARNING")


def test_another_resolution(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = bundle_of(tmp_path, pixel_size=(10.0, 10.0, "m"))
    pixels = make_pixels(3, 64, 64, "uint16").clip(100, 300)
    for name, crs, transform, said in (
        ("same", UTM, TRANSFORM, ""),
        ("finer", UTM, (0.5, 0, 5e5, 0, -0.5, 5e6), "a pixel is 0.5 m wide, in the scenes of the training 10 m"),
        ("degrees", "EPSG:4326", (9e-5, 0, 15, 0, -9e-5, 1), ""),
        ("coarse", "EPSG:4326", (1e-3, 0, 15, 0, -1e-3, 1), "a pixel is 111 m wide"),
        ("feet", "EPSG:2263", (32.8, 0, 9e5, 0, -32.8, 2e5), ""),
        ("none", None, None, ""),
    ):
        uri = write_raster(tmp_path / f"{name}.tif", pixels, names=NAMES, crs=crs, transform=transform)
        found = warned(bundle, uri, tmp_path, caplog)
        assert (said in found and str(uri) in found) if said else found == ""


def test_sides_of_pixels() -> None:
    assert pixel_size(Grid(10, 10)) is None
    assert pixel_size(Grid(10, 10, None, (0.25, 0, 0, 0, 0.25, 0))) == (0.25, "")
    assert pixel_size(Grid(10, 10, UTM, TRANSFORM)) == (10.0, "m")
    north = pixel_size(Grid(2, 2, "EPSG:4326", (1.0, 0, 0, 0, -1.0, 61.0)))
    assert north is not None and north[0] == pytest.approx(111_320 * 0.5**0.5)


@pytest.mark.parametrize(
    ("scale", "dtype", "odd"),
    [(1, "uint16", False), (1 / 255, "float32", True), (100, "uint16", True), (0.7, "float32", False)],
)
def test_another_range_of_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scale: float, dtype: str, odd: bool
) -> None:
    bundle = bundle_of(tmp_path, dtype=dtype)
    pixels = (make_pixels(3, 64, 64, "uint16").clip(100, 300) * scale).astype(dtype)
    uri = write_raster(tmp_path / "a.tif", pixels, names=NAMES)
    found = warned(bundle, uri, tmp_path, caplog)
    assert ("scale the image to the units of the training" in found) == odd, found
    if odd:
        assert f"{uri}: values of B02 are" in found and "in the scenes of the training 100 to 300" in found


def test_places_that_the_output_cannot_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = bundle_of(tmp_path)
    pixels = make_pixels(3, 64, 64, "uint16").clip(100, 300)
    bent = write_raster(tmp_path / "bent.tif", pixels, names=NAMES)
    points = [GroundControlPoint(r, c, 5e5 + 10 * c + r * c, 5e6 - 10 * r) for r in (0, 32, 64) for c in (0, 32, 64)]
    with rasterio.open(bent, "r+") as dataset:
        dataset.gcps = (points, UTM)
    assert "9 control points fit no affine transform" in warned(bundle, bent, tmp_path, caplog)
    rpc = write_raster(tmp_path / "rpc.tif", pixels, names=NAMES)
    one = [1.0, *[0.0] * 19]
    with rasterio.open(rpc, "r+") as dataset:
        dataset.rpcs = RPC(0, 1, 45, 1, one, one, 32, 64, 15, 1, one, one, 32, 64)
    assert "placed by RPCs only" in warned(bundle, rpc, tmp_path, caplog)
    plain = write_raster(tmp_path / "plain.tif", pixels, names=NAMES, crs=UTM, transform=from_origin(0, 0, 1, 1)[:6])
    assert warned(bundle, plain, tmp_path, caplog) == ""


# --- evaluation


def test_where_bands_are_among_those_of_a_manifest(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    assert bundle_inputs.positions(bundle, ("b04", "B02", "B03"), ()) == (1, 2, 0)
    assert bundle_inputs.positions(bundle, ("x", "y", "z"), ("B04", "B03", "B02")) == (2, 1, 0)
    assert bundle_inputs.positions(bundle, ("band_1", "band_2", "band_3"), ()) is None
    with pytest.raises(SceneError, match=r"B08\).*was trained on 3 .*: B02 missing"):
        bundle_inputs.positions(bundle, ("B03", "B04", "B08"), ())


def test_ways_of_reading_that_differ(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, recipe=recipe(reading={"nodata_rule": "all", "hounsfield": [0, 100]}))
    assert bundle_inputs.other_ways(bundle, Reading(alpha="band", bands=("B02",))) == [
        ("hounsfield", (0.0, 100.0), None),
        ("alpha", "mask", "band"),
        ("greys", "stored", "shown"),
    ]
