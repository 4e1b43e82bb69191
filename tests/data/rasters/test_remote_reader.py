"""Rasters in a bucket: the same pixels as from a disk, also over a bad line, and errors that tell what happened."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline import store
from pipeline.data.rasters import raster_io, remote_reader
from pipeline.data.rasters.dataset_pool import DatasetPool
from pipeline.data.rasters.formats.gdal import open_gdal
from pipeline.data.rasters.grids import Grid
from pipeline.data.rasters.remote_reader import RemoteReader
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError, StorageError
from pipeline.recipe.data import Reading
from pipeline.recipe.storage import Storage
from tests.data.rasters.formats.test_exif_orientation import picture
from tests.factory import NODATA, TRANSFORM, UTM, make_pixels, write_raster
from tests.proxy import Remote
from tests.servers import S3

WINDOW = Window(70, 50, 200, 180)


def make(folder: Path, name: str = "a", **options: object) -> tuple[Path, np.ndarray]:
    """A tiled GeoTIFF of 512² pixels, large enough that its tiles are requests of their own."""
    pixels = make_pixels(3, 512, 512, "uint16", seed=len(name))
    pixels[:, :100, :100] = NODATA["uint16"]
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", **options}
    path = write_raster(folder / f"{name}.tif", pixels, crs=UTM, transform=TRANSFORM, nodata=0, **layout)
    return path, pixels


def upload(server: S3, path: Path) -> str:
    uri = server.uri(path.name)
    store.upload_file(path, uri)
    return uri


def reader_of(uri: str) -> RemoteReader:
    return RemoteReader(uri, lambda: open_gdal(uri, store.gdal_path(uri), label=False, reading=Reading()))


def cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    return pixels[:, window.row : window.row + window.height, window.col : window.col + window.width]


def test_pixels_are_those_of_the_file(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path, pixels = make(tmp_path)
    reader = reader_of(upload(s3_server, path))
    got, valid = reader.read(WINDOW)
    np.testing.assert_array_equal(got, cut(pixels, WINDOW))
    np.testing.assert_array_equal(valid, cut(pixels, WINDOW)[0] != 0)
    assert (reader.height, reader.width, reader.num_bands, reader.dtype) == (512, 512, 3, "uint16")
    np.testing.assert_array_equal(reader.read(WINDOW, bands=[2])[0], cut(pixels, WINDOW)[2:])


def test_opening_takes_two_requests_and_a_window_one_for_each_row_of_tiles(
    proxy: Remote, s3_server: S3, tmp_path: Path
) -> None:
    path, _ = make(tmp_path)
    uri = upload(s3_server, path)
    proxy.set(clear=1)
    reader = reader_of(uri)
    assert proxy.set().requests == 2, proxy.set().lines
    proxy.set(clear=1)
    reader.read(WINDOW)
    assert proxy.set().requests == 2, proxy.set().lines


@pytest.mark.parametrize("fault", ["throttle", "reset", "cut"])
@pytest.mark.parametrize("when", ["open", "read"])
def test_a_bad_line_changes_no_pixel(proxy: Remote, s3_server: S3, tmp_path: Path, fault: str, when: str) -> None:
    path, pixels = make(tmp_path)
    uri = upload(s3_server, path)
    if when == "open":
        proxy.set(**{fault: 1})
    reader = reader_of(uri)
    if when == "read":
        proxy.set(**{fault: 2})
    np.testing.assert_array_equal(reader.read(WINDOW)[0], cut(pixels, WINDOW))
    assert getattr(proxy.set(), fault) == 0, "it happened"


def test_throttling_without_end_is_no_damaged_file(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path, _ = make(tmp_path)
    reader = reader_of(upload(s3_server, path))
    proxy.set(throttle=1000)
    with pytest.raises(StorageError, match="slow down") as caught:
        reader.read(WINDOW)
    assert caught.value.exit_code == 75


def test_missing_forbidden_and_damaged_are_told_apart(
    proxy: Remote, s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SceneError, match="no such file"):
        reader_of(s3_server.uri("missing.tif"))
    path, _ = make(tmp_path)
    good = upload(s3_server, path)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(SceneError, match="cannot be read"):
        reader_of(upload(s3_server, path)).read(Window(0, 0, 512, 512))
    store.write_bytes(uri := s3_server.uri("text.tif"), b"no raster at all")
    with pytest.raises(SceneError, match="cannot be read"):
        reader_of(uri)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="does not allow") as caught:
        reader_of(good)
    assert "s3:" in caught.value.hint


def test_a_file_that_comes_later_is_found(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path, pixels = make(tmp_path)
    uri = s3_server.uri("late.tif")
    with pytest.raises(SceneError, match="no such file"):
        reader_of(uri)
    store.upload_file(path, uri)
    np.testing.assert_array_equal(reader_of(uri).read(WINDOW)[0], cut(pixels, WINDOW))


def test_an_external_mask_is_found(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "masked.tif", make_pixels(1, 512, 512, "uint8"))
    mask = np.zeros((512, 512), np.uint8)
    mask[:, :256] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    uri = upload(s3_server, path)
    store.upload_file(tmp_path / "masked.tif.msk", uri + ".msk")
    proxy.set(clear=1)
    valid = reader_of(uri).read(Window(0, 0, 512, 512))[1]
    np.testing.assert_array_equal(valid, mask > 0)
    assert proxy.set().requests < 10, proxy.set().lines


def test_threads_read_at_the_same_time(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path, pixels = make(tmp_path)
    uri = upload(s3_server, path)
    handles = DatasetPool(reader_of, 4)

    def read(number: int) -> bool:
        window = Window(number * 7 % 300, number * 13 % 300, 200, 200)
        return np.array_equal(handles.get(uri).read(window)[0], cut(pixels, window))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(40)))


def test_the_cache_spares_the_network_and_changes_nothing(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path, pixels = make(tmp_path)
    uri = upload(s3_server, path)
    store.configure(Storage(cache=50_000_000, cache_dir=str(tmp_path / "cache")))
    first = reader_of(uri)
    np.testing.assert_array_equal(first.read(WINDOW)[0], cut(pixels, WINDOW))
    proxy.set(clear=1)
    got, valid = first.read(Window(0, 0, 256, 256))
    np.testing.assert_array_equal(got, pixels[:, :256, :256])
    np.testing.assert_array_equal(valid, pixels[0, :256, :256] != 0)
    assert proxy.set().requests == 0
    path, changed = make(tmp_path, "another")
    store.upload_file(path, uri)
    remote_reader._stamp.cache_clear()  # five minutes pass
    np.testing.assert_array_equal(reader_of(uri).read(WINDOW)[0], cut(changed, WINDOW))
    assert len(list((tmp_path / "cache").glob("??/*"))) == 4, "two cells of each version"


def test_whole_files_are_fetched_once(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    store.write_bytes(uri := s3_server.uri("a.nii.gz"), b"x" * 1000)
    store.configure(Storage(cache=1_000_000, cache_dir=str(tmp_path / "cache")))
    copy = store.local_file(uri)
    assert (copy.read_bytes(), copy.suffix) == (b"x" * 1000, ".gz")
    proxy.set(clear=1)
    assert store.local_file(uri) == copy
    assert "GET" not in proxy.set().methods
    copy.write_bytes(b"x" * 10)
    assert store.local_file(uri).read_bytes() == b"x" * 1000


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_pictures_are_turned_and_bands_chosen(s3_server: S3, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"turned{ending}"
    shown = picture(path, 6, height=300, width=400)
    uri, reading = upload(s3_server, path), Reading(bands=(3, 1))
    assert raster_io.describe(uri).grid == raster_io.describe(str(path)).grid == Grid(*shown.shape[1:])
    window = Window(11, 17, 50, 60)
    got, valid = raster_io.read(uri, window, reading=reading)
    assert valid.all() and got.shape == (2, 50, 60)
    np.testing.assert_array_equal(got, raster_io.read(str(path), window, reading=reading)[0])
