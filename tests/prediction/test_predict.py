"""The verb predict: rasters that lie exactly on their sources, and nothing touched that should not be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from pipeline import store
from pipeline.errors import OutputExists, RecipeError, SceneError
from pipeline.model.bundle import Bundle
from pipeline.prediction.predict import predict
from tests.model import small
from tests.servers import S3

TRANSFORM = from_origin(432_100.0, 5_600_020.0, 10.0, 10.0)
NODATA = 0


def write_scene(path: Path, *, height: int = 90, width: int = 130, num_bands: int = 4, **profile: object) -> np.ndarray:
    """A georeferenced uint16 scene with a nodata corner; returns its pixels."""
    rng = np.random.default_rng(sum(path.name.encode()))
    image = rng.integers(100, 300, (num_bands, height, width)).astype(np.uint16)
    image[:, :20, :30] = NODATA
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {"crs": "EPSG:32633", "transform": TRANSFORM, "nodata": NODATA, "dtype": "uint16", "driver": "GTiff"}
    with rasterio.open(path, "w", height=height, width=width, count=num_bands, **(defaults | profile)) as file:
        file.write(image)
    return image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small.save(tmp_path_factory.mktemp("bundle") / "bundle")


def test_the_raster_lies_exactly_on_its_source(bundle: Bundle, tmp_path: Path) -> None:
    image = write_scene(tmp_path / "in" / "alps.tif")
    (written,) = predict(bundle, str(tmp_path / "in" / "*.tif"), str(tmp_path / "out"))
    assert written == str(tmp_path / "out" / "alps.tif")
    with rasterio.open(written) as out, rasterio.open(tmp_path / "in" / "alps.tif") as source:
        assert (out.crs, out.transform, out.shape, out.bounds) == (
            source.crs,
            source.transform,
            source.shape,
            source.bounds,
        )
        assert (out.count, out.dtypes[0], out.nodata) == (1, "uint8", 255)
        colors, tags, values = out.colormap(1), out.tags(1), out.read(1)
    assert [colors[i][:3] for i in range(3)] == list(small.CLASSES.colors)
    assert [tags[f"CLASS_{i}"] for i in range(3)] == list(small.CLASSES.names)
    assert (values[:20, :30] == 255).all()
    assert set(np.unique(values[20:])) <= {0, 1, 2}
    # Another program reads the same values, and the same place: scale and tie point are plain TIFF tags.
    with Image.open(written) as other:
        assert (np.asarray(other) == values).all()
        assert other.tag_v2[33550][:2] == (10.0, 10.0)
        assert other.tag_v2[33922][3:5] == (432_100.0, 5_600_020.0)
        assert other.tag_v2[42113].strip("\x00") == "255"
    assert image.shape[1:] == values.shape


def test_a_scene_of_one_window_is_the_networks_answer(bundle: Bundle, tmp_path: Path) -> None:
    image = write_scene(tmp_path / "s.tif", height=64, width=64)
    (written,) = predict(bundle, str(tmp_path / "s.tif"), str(tmp_path / "out"), device="cpu")
    valid = (image != NODATA).all(0)
    fill = np.round(bundle.statistics.fill).astype(np.uint16)[:, None, None]
    with torch.inference_mode():
        logits = bundle.network(torch.from_numpy(np.where(valid, image, fill))[None])
    with rasterio.open(written) as out:
        assert (out.read(1) == np.where(valid, logits.argmax(1)[0].numpy(), 255)).all()


def test_smaller_than_the_window(bundle: Bundle, tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif", height=23, width=31)
    (written,) = predict(bundle, str(tmp_path / "s.tif"), str(tmp_path / "out"))
    with rasterio.open(written) as out:
        assert out.shape == (23, 31)
        assert out.read(1).max(where=np.arange(23)[:, None] >= 20, initial=0) <= 2


def test_png_without_coordinates(tmp_path: Path) -> None:
    bundle = small.save(tmp_path / "bundle", num_bands=3, dtype="uint8")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cell.png")
    (written,) = predict(bundle, str(tmp_path / "cell.png"), str(tmp_path / "out"))
    assert Path(written).name == "cell.tif"
    with rasterio.open(written) as out:
        assert out.crs is None and out.transform.is_identity and out.shape == (50, 70)
        values = out.read(1)
    with Image.open(written) as other:
        assert (np.asarray(other) == values).all() and values.max() <= 2


def test_nodata_of_the_recipe_counts(tmp_path: Path) -> None:
    bundle = small.save(tmp_path / "bundle", recipe={"data": {"nodata": 0}})
    write_scene(tmp_path / "s.tif", nodata=None)
    (written,) = predict(bundle, str(tmp_path / "s.tif"), str(tmp_path / "out"))
    with rasterio.open(written) as out:
        assert (out.read(1)[:20, :30] == 255).all()


def test_window_and_overlap_are_taken(bundle: Bundle, tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif")
    image = str(tmp_path / "s.tif")
    predict(bundle, image, str(tmp_path / "default"))
    predict(bundle, image, str(tmp_path / "other"), window=32, overlap=0.5)
    one, two = (rasterio.open(tmp_path / name / "s.tif").read(1) for name in ("default", "other"))
    assert (one != two).any() and (one == two).mean() > 0.5
    with pytest.raises(RecipeError, match="overlap"):
        predict(bundle, image, str(tmp_path / "third"), overlap=1.5)


def test_existing_output_is_refused_before_anything_is_computed(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_scene(tmp_path / "in" / f"{name}.tif")
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.tif").write_bytes(b"mine")
    with pytest.raises(OutputExists, match=r"1 rasters exist: .*b\.tif") as caught:
        predict(bundle, str(tmp_path / "in" / "*.tif"), str(out))
    assert caught.value.exit_code == 2
    assert [p.name for p in out.iterdir()] == ["b.tif"] and (out / "b.tif").read_bytes() == b"mine"
    assert len(predict(bundle, str(tmp_path / "in" / "*.tif"), str(out), overwrite=True)) == 3
    assert rasterio.open(out / "b.tif").count == 1


def test_the_same_call_goes_on_where_it_was_stopped(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = str(tmp_path / "in" / "*.tif")
    for name in ("a", "b", "c"):
        write_scene(tmp_path / "in" / f"{name}.tif")
    out = tmp_path / "out"
    predict(bundle, str(tmp_path / "in" / "a.tif"), str(out))
    dead = out / f".writing-{socket.gethostname()}-{2**22 + 1}-x"  # no process has this number
    alive = out / f".writing-{socket.gethostname()}-{os.getpid()}-x"
    for folder in (dead, alive):
        folder.mkdir()
    before = (out / "a.tif").stat()
    written = predict(bundle, images, str(out))
    assert [Path(uri).name for uri in written] == ["a.tif", "b.tif", "c.tif"]
    assert (out / "a.tif").stat() == before, "it was finished"
    monkeypatch.chdir(tmp_path)
    assert predict(bundle, "in/*.tif", "out") == ["out/a.tif", "out/b.tif", "out/c.tif"], "by other names of the files"
    assert not dead.exists() and alive.exists()
    with rasterio.open(out / "b.tif") as raster:
        tags = raster.tags()
    assert tags["SEGPIPE_WEIGHTS"] == bundle.weights_sha256
    assert (tags["SEGPIPE_MODEL"], tags["SEGPIPE_WINDOW"], tags["SEGPIPE_OVERLAP"]) == (bundle.uri, "64", "0.25")
    assert tags["SEGPIPE_IMAGE"] == str(tmp_path / "in/b.tif")
    for changes in ({"window": 32}, {"overlap": 0.5}):
        with pytest.raises(OutputExists, match="3 rasters exist") as caught:
            predict(bundle, images, str(out), **changes)
        assert "not made by this model and these settings" in caught.value.hint
    with pytest.raises(OutputExists):
        predict(small.save(tmp_path / "other", seed=1), images, str(out))
    write_scene(tmp_path / "in/b.tif", height=91)
    with pytest.raises(OutputExists, match=r"1 rasters exist: .*b\.tif"):
        predict(bundle, images, str(out))
    predict(bundle, images, str(out), overwrite=True)
    assert (out / "a.tif").stat().st_mtime_ns != before.st_mtime_ns


def test_the_image_itself_is_never_replaced(bundle: Bundle, tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif")
    before = (tmp_path / "s.tif").read_bytes()
    for out in (tmp_path, tmp_path / "." / "sub" / ".."):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(SceneError, match="would replace the image"):
            predict(bundle, str(tmp_path / "s.tif"), str(out), overwrite=True)
    assert (tmp_path / "s.tif").read_bytes() == before


def test_another_number_of_bands(bundle: Bundle, tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif", num_bands=3)
    with pytest.raises(SceneError, match=r"s\.tif: bands .*\(3\) where the bundle expects band_1.*\(4\)") as caught:
        predict(bundle, str(tmp_path / "s.tif"), str(tmp_path / "out"))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_one_unreadable_image_does_not_stop_the_others(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_scene(tmp_path / "in" / f"{name}.tif")
    path = tmp_path / "in" / "b.tif"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SceneError, match=r"(?s)1 of 3 images could not be predicted, the others are done:.*b\.tif"):
        predict(bundle, str(tmp_path / "in" / "*.tif"), str(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tif", "c.tif"]


def test_nothing_found(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"no image matches .*\*\.jp2"):
        predict(bundle, str(tmp_path / "*.jp2"), str(tmp_path / "out"))


def test_two_images_of_one_name(bundle: Bundle, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_scene(tmp_path / folder / "s.tif")
    with pytest.raises(SceneError, match=r"one/s\.tif and .*two/s\.tif have the same name"):
        predict(bundle, [str(tmp_path / "one" / "*.tif"), str(tmp_path / "two" / "*.tif")], str(tmp_path / "out"))


def test_progress_tells_what_is_done(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_scene(tmp_path / f"{name}.tif")
    told: list[tuple[int, int, str]] = []
    predict(
        bundle,
        str(tmp_path / "*.tif"),
        str(tmp_path / "out"),
        progress=lambda done, total, note="": told.append((done, total, note)),
    )
    assert told[0][:2] == (0, 2) and told[-1] == (2, 2, "")
    assert any("a.tif 100 %" in note for _, _, note in told)


def test_from_a_bucket_to_a_bucket(s3_server: S3, tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif")
    images, place, out = (s3_server.uri(name) for name in ("images", "bundle", "out"))
    store.upload_file(tmp_path / "s.tif", store.join(images, "s.tif"))
    local = predict(small.save(place).uri, str(tmp_path / "s.tif"), str(tmp_path / "out"))
    remote = predict(place, store.join(images, "*.tif"), out)
    assert remote == [store.join(out, "s.tif")]
    store_copy = tmp_path / "remote.tif"
    store_copy.write_bytes(store.read_bytes(remote[0]))
    with rasterio.open(store_copy) as there, rasterio.open(local[0]) as here:
        assert np.array_equal(there.read(), here.read())
        assert (there.profile, there.colormap(1)) == (here.profile, here.colormap(1))
    assert predict(place, store.join(images, "*.tif"), out) == remote, "it is finished"
