import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.rasters.raster_io import Grid, Writer, describe, probe, read, read_label, read_label_bands, write_cog
from pipeline.data.rasters.windows import Window, cover
from pipeline.errors import LabelError, OutputExists, SceneError, StorageError
from pipeline.recipe.data import Reading
from tests.factory import TRANSFORM, UTM, make_pixels, make_scene, write_raster

ALL = Window(0, 0, 64, 64)
GRID = Grid(64, 64, UTM, TRANSFORM)
KINDS = [
    (dtype, invalid)
    for dtype in ("uint8", "uint16", "int16", "float32")
    for invalid in ("none", "nodata", "mask", "alpha", "opaque")
] + [("float32", "nan")]


def image(folder: Path, name: str = "a.tif") -> str:
    return str(folder / "images" / name)


# ------------------------------------------------------------------------------------------------ what is valid


@pytest.mark.parametrize("bands", [1, 3, 4, 7])
@pytest.mark.parametrize(("dtype", "invalid"), KINDS)
def test_pixels_and_validity_of_a_geotiff(tmp_path, bands, dtype, invalid):
    expected = make_pixels(bands, 64, 64, dtype)
    valid = make_scene(tmp_path, pixels=expected, dtype=dtype, invalid=invalid)
    info = describe(image(tmp_path))
    assert (len(info.bands), info.dtype, info.georeferenced) == (bands, dtype, True)
    assert info.grid.difference(GRID) == ""
    pixels, seen = read(image(tmp_path), ALL)
    assert pixels.shape == (bands, 64, 64) and pixels.dtype == dtype
    np.testing.assert_array_equal(seen, valid)
    np.testing.assert_array_equal(pixels[:, valid], expected[:, valid])


@pytest.mark.parametrize("invalid", ["none", "alpha", "opaque"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3])
def test_pixels_and_validity_of_a_png(tmp_path, bands, dtype, invalid):
    expected = make_pixels(bands, 64, 64, dtype)
    valid = make_scene(tmp_path, pixels=expected, dtype=dtype, invalid=invalid, ending=".png")
    info = describe(image(tmp_path, "a.png"))
    assert (info.bands, info.georeferenced) == (tuple(f"band_{i + 1}" for i in range(bands)), False)
    pixels, seen = read(image(tmp_path, "a.png"), ALL)
    np.testing.assert_array_equal(seen, valid)
    np.testing.assert_array_equal(pixels[:, valid], expected[:, valid])


def test_a_jpeg_has_three_bands(tmp_path):
    make_scene(tmp_path, ending=".jpg")
    assert len(describe(image(tmp_path, "a.jpg")).bands) == 3
    pixels, valid = read(image(tmp_path, "a.jpg"), ALL)
    assert pixels.std() > 10 and valid.all()


def test_one_band_without_a_value_makes_the_pixel_invalid_under_the_rule_any(tmp_path):
    pixels = make_pixels(3, 8, 8, "int16")
    pixels[1, 2, 3] = -9999
    pixels[:, 4, 5] = -9999
    path = write_raster(tmp_path / "a.tif", pixels, nodata=-9999)
    _, valid = read(str(path), Window(0, 0, 8, 8), reading=Reading(nodata_rule="any"))
    assert not valid[2, 3] and not valid[4, 5] and valid.sum() == 62
    _, valid = read(str(path), Window(0, 0, 8, 8))
    assert valid[2, 3] and not valid[4, 5] and valid.sum() == 63


def test_a_nodata_value_of_the_recipe_is_added_to_the_declared_one(tmp_path):
    pixels = make_pixels(1, 4, 4, "uint16")
    pixels[0, 0, 0], pixels[0, 1, 1] = 0, 9_999
    path = str(write_raster(tmp_path / "a.tif", pixels, nodata=0))
    assert read(path, Window(0, 0, 4, 4))[1].sum() == 15
    valid = read(path, Window(0, 0, 4, 4), nodata=9_999)[1]
    assert valid.sum() == 14 and not valid[0, 0] and not valid[1, 1]


@pytest.mark.parametrize("nodata", [-1.0, 0.5, 70_000.0, float("nan"), float("inf")])
def test_a_nodata_value_that_the_type_cannot_hold_hides_nothing(tmp_path, nodata):
    path = write_raster(tmp_path / "a.tif", np.array([[[0, 1, 65_535]]], np.uint16))
    assert read(str(path), Window(0, 0, 1, 3), nodata=nodata)[1].all()


def test_nodata_and_mask_band_both_count(tmp_path):
    pixels = make_pixels(1, 4, 4, "uint8")
    pixels[0, 0, 0] = 0
    hidden = np.ones((4, 4), bool)
    hidden[3, 3] = False
    path = write_raster(tmp_path / "a.tif", pixels, nodata=0, mask=hidden)
    valid = read(str(path), Window(0, 0, 4, 4))[1]
    assert not valid[0, 0] and not valid[3, 3] and valid.sum() == 14


def test_an_external_mask_file_counts(tmp_path):
    path = write_raster(tmp_path / "a.tif", make_pixels(2, 8, 8, "uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.arange(64).reshape(8, 8) >= 10)
    assert (tmp_path / "a.tif.msk").exists()
    assert read(str(path), Window(0, 0, 8, 8))[1].sum() == 54


def test_infinite_pixels_are_invalid(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[[1, np.inf, -np.inf, np.nan]]], np.float32))
    np.testing.assert_array_equal(read(str(path), Window(0, 0, 1, 4))[1], [[True, False, False, False]])


def test_band_names_come_from_the_file(tmp_path):
    make_scene(tmp_path, bands=4, dtype="uint16", names=("blue", "green", "red", "nir"))
    assert describe(image(tmp_path)).bands == ("blue", "green", "red", "nir")


# ------------------------------------------------------------------------------------------------ windows


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-80, 80), st.integers(-80, 80), st.integers(1, 90), st.integers(1, 90))
def test_any_window_is_the_raster_with_padding(tmp_path, row, col, height, width):
    path = tmp_path / "images" / "a.tif"
    if not path.exists():
        make_scene(tmp_path, invalid="nodata", dtype="uint16", tiled=True, blockxsize=16, blockysize=16)
    whole, ok = read(str(path), ALL)
    padded = np.zeros((3, 300, 300), whole.dtype)
    allowed = np.zeros((300, 300), bool)
    padded[:, 100:164, 100:164], allowed[100:164, 100:164] = whole, ok
    area = np.s_[100 + row : 100 + row + height, 100 + col : 100 + col + width]
    pixels, valid = read(str(path), Window(row, col, height, width))
    np.testing.assert_array_equal(pixels, padded[:, area[0], area[1]])
    np.testing.assert_array_equal(valid, allowed[area])


def test_a_scene_smaller_than_the_window_is_padded_with_invalid_pixels(tmp_path):
    make_scene(tmp_path, height=10, width=20)
    (window,) = cover(10, 20, 64)
    pixels, valid = read(image(tmp_path), window)
    label, labelled = read_label(str(tmp_path / "masks" / "a.png"), window)
    assert pixels.shape == (3, 64, 64) and label.shape == (64, 64)
    for seen in (valid, labelled):
        assert seen[:10, :20].all() and seen.sum() == 200


def test_threads_read_the_same(tmp_path):
    make_scene(tmp_path, height=256, width=256, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    windows = list(cover(256, 256, 50, 0.3))
    alone = [read(image(tmp_path), w)[0] for w in windows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda w: read(image(tmp_path), w)[0], windows * 3))
    for first, second in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_many_files_do_not_keep_many_open(tmp_path):
    for i in range(50):
        make_scene(tmp_path, f"s{i}", height=8, width=8, label_ending=None)
        read(image(tmp_path, f"s{i}.tif"), Window(0, 0, 8, 8))
    opened = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert 0 < sum(str(tmp_path) in name for name in opened) <= 32


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    for seed in (1, 2):
        pixels = make_pixels(3, 64, 64, "uint8", seed)
        make_scene(tmp_path, pixels=pixels)
        np.testing.assert_array_equal(read(image(tmp_path), ALL)[0], pixels)


# ------------------------------------------------------------------------------------------------ labels


def test_a_palette_label_gives_its_indices(tmp_path):
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    for ending in (".png", ".tif"):
        colors = {0: (9, 9, 9), 1: (255, 0, 0), 2: (0, 255, 0)}
        options = {"photometric": "PALETTE"} if ending == ".tif" else {}
        path = write_raster(tmp_path / f"a{ending}", indices, colors=colors, **options)
        label, valid = read_label(str(path), Window(0, 0, 8, 8))
        assert label.dtype == np.uint8 and valid.all()
        np.testing.assert_array_equal(label, indices)


def test_a_labels_nodata_is_invalid_and_negative_values_stay(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[[-1, 0, 5]]], np.int16), nodata=0)
    label, valid = read_label(str(path), Window(0, 0, 1, 3))
    np.testing.assert_array_equal(label, [[-1, 0, 5]])
    np.testing.assert_array_equal(valid, [[True, False, True]])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 4, 4), np.uint8), "the label has 3 bands"),
        (np.zeros((1, 4, 4), np.float32), "label values of type float32"),
    ],
)
def test_what_no_label_can_be(tmp_path, pixels, message):
    path = str(write_raster(tmp_path / "a.tif", pixels))
    for attempt in (lambda: describe(path, label=True), lambda: read_label(path, Window(0, 0, 4, 4))):
        with pytest.raises(LabelError, match=message) as caught:
            attempt()
        assert path in caught.value.message


def test_label_values_beyond_32_bits_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[[0, 2**32 - 1]]], np.uint32))
    with pytest.raises(LabelError, match="beyond 32 bits: 0 to 4294967295"):
        read_label(str(path), Window(0, 0, 1, 2))


# ------------------------------------------------------------------------------------------------ bad files


def test_missing_and_empty_files(tmp_path):
    (tmp_path / "empty.tif").touch()
    for name, message in (("none.tif", "no such file"), ("empty.tif", "the file is empty")):
        for attempt in (describe, probe, lambda uri: read(uri, ALL), lambda uri: read_label(uri, ALL)):
            with pytest.raises(SceneError, match=f"{name}: {message}"):
                attempt(str(tmp_path / name))


@pytest.mark.parametrize("text", ["not a raster", "II*\0", "\x89PNG\r\n\x1a\n"])
def test_what_is_no_raster(tmp_path, text):
    (tmp_path / "a.tif").write_bytes(text.encode("latin1"))
    with pytest.raises(SceneError, match=r"a\.tif: cannot be read") as caught:
        describe(str(tmp_path / "a.tif"))
    assert "damaged or is no GeoTIFF, PNG or JPEG" in caught.value.hint


def test_a_renamed_vrt_is_not_followed(tmp_path):
    make_scene(tmp_path)
    vrt = (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{image(tmp_path)}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "b.tif").write_text(vrt)
    with rasterio.open(tmp_path / "b.tif") as dataset:
        assert dataset.driver == "VRT"  # what GDAL would make of it
    with pytest.raises(SceneError, match="not recognized"):
        describe(str(tmp_path / "b.tif"))
    with pytest.raises(SceneError, match="no such file"):
        describe(vrt)


@pytest.mark.parametrize("path", ["/vsicurl/http://127.0.0.1:9/a.tif", "GTIFF_DIR:1:a.tif"])
def test_gdals_own_paths_are_not_honoured(path):
    with pytest.raises((SceneError, StorageError)):
        describe(path)


@pytest.mark.parametrize("ending", [".tif", ".png", ".jpg"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_file_that_was_cut_off_is_found(tmp_path, ending, share):
    make_scene(tmp_path, height=300, width=300, ending=ending)
    path = Path(image(tmp_path, f"a{ending}"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SceneError, match="cannot be read"):
        probe(str(path))
    with pytest.raises(SceneError, match="cannot be read"):
        read(str(path), Window(0, 0, 300, 300))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_a_damaged_file_is_read_or_refused_but_never_ends_the_process(tmp_path, seed):
    rng = np.random.default_rng(seed)
    make_scene(tmp_path, height=40, width=40, ending=str(rng.choice([".tif", ".png", ".jpg"])), seed=3)
    (path,) = (tmp_path / "images").iterdir()
    data = bytearray(path.read_bytes())
    path.unlink()
    for at in rng.integers(0, min(len(data), 600), rng.integers(1, 12)):
        data[at] = rng.integers(256)
    path.write_bytes(bytes(data))
    for attempt in (describe, probe, lambda uri: read(uri, ALL)):
        try:
            attempt(str(path))
        except SceneError as error:
            assert str(path) in error.message
    path.unlink()


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 999_999, 999_999, 8, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(SceneError, match="header claims 999999 × 999999 pixels"):
        describe(str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("int8", "int16"),
        ("uint32", "float32"),
        ("int32", "float32"),
        ("uint64", "float32"),
        ("int64", "float32"),
        ("float64", "float32"),
    ],
)
def test_other_types_are_read_as_one_that_holds_them(tmp_path, given, taken):
    values = np.array([[[0, 1, 5, 100]]], given)
    path = str(write_raster(tmp_path / "a.tif", values))
    info = describe(path)
    assert info.dtype == taken and f"{given} read as {taken}" in info.format
    pixels, valid = read(path, Window(0, 0, 1, 4))
    assert pixels.dtype == taken and valid.all()
    np.testing.assert_array_equal(pixels, values)


@pytest.mark.parametrize("value", [2**24 + 1, 2**31 - 1, -(2**24) - 1])
def test_an_integer_that_would_be_rounded_is_refused(tmp_path, value):
    path = str(write_raster(tmp_path / "a.tif", np.array([[[0, value]]], np.int32)))
    assert read(path, Window(0, 0, 1, 1))[0].max() == 0
    assert not read(path, Window(0, 0, 1, 2), nodata=value)[1][0, 1]
    with pytest.raises(SceneError, match=rf"a\.tif: a int32 value of {value} cannot be held by float32"):
        read(path, Window(0, 0, 1, 2))


def test_float64_is_rounded_and_its_nodata_is_no_overflow(tmp_path):
    pixels = np.array([[[0.1, -1.7976931348623157e308]]])
    path = str(write_raster(tmp_path / "a.tif", pixels, nodata=-1.7976931348623157e308))
    seen, valid = read(path, Window(0, 0, 1, 2))
    assert seen[0, 0, 0] == np.float32(0.1) and valid.tolist() == [[True, False]]
    other = str(write_raster(tmp_path / "b.tif", pixels))
    with pytest.raises(SceneError, match="cannot be held by float32"):
        read(other, Window(0, 0, 1, 2))


def test_complex_pixels_are_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 4, 4), "complex64"))
    with pytest.raises(SceneError, match="complex numbers"):
        describe(str(path))


@pytest.mark.parametrize(("transform", "says"), [((np.nan, 0, 0, 0, -1, 0), "its transform holds no numbers")])
def test_a_transform_that_holds_no_numbers_is_refused(tmp_path, transform, says):
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 4, 4), np.uint8))
    (tmp_path / "a.tfw").write_text("nan\n0\n0\n-1\n5\n5\n")
    with pytest.raises(SceneError, match=says):
        describe(str(path))


def test_whole_numbers_in_floats_are_label_bands(tmp_path):
    values = np.array([[[0, 1, np.nan]], [[7, -2, 3]]], np.float32)
    path = str(write_raster(tmp_path / "a.tif", values))
    labels, valid = read_label_bands(path, Window(0, 0, 1, 3))
    assert labels.dtype == np.int32 and valid.tolist() == [[True, True, False]]
    np.testing.assert_array_equal(labels[:, valid], values[:, valid])
    half = str(write_raster(tmp_path / "b.tif", np.array([[[0.5]]], np.float32)))
    with pytest.raises(LabelError, match=r"b\.tif: a label value of 0\.5"):
        read_label_bands(half, Window(0, 0, 1, 1))


def test_probe_sees_content_but_not_dates(tmp_path):
    make_scene(tmp_path, "a", seed=1)
    make_scene(tmp_path, "b", seed=1)
    make_scene(tmp_path, "c", seed=2)
    os.utime(image(tmp_path, "b.tif"), (1, 1))
    a, b, c = (probe(image(tmp_path, f"{i}.tif")) for i in "abc")
    assert a == b != c


# ------------------------------------------------------------------------------------------------ grids


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (GRID, ""),
        (Grid(64, 64, rasterio.CRS.from_epsg(32633).to_wkt(), TRANSFORM), ""),
        (Grid(64, 64), ""),
        (Grid(64, 64, None, TRANSFORM), ""),
        (Grid(64, 64, UTM, (10.0, 0, 500_000.001, 0, -10, 5e6)), ""),
        (Grid(64, 65, UTM, TRANSFORM), "64 × 64 pixels against 65 × 64"),
        (Grid(64, 64, "EPSG:32634", TRANSFORM), "EPSG:32633 against EPSG:32634"),
        (Grid(64, 64, UTM, (10.0, 0, 500_005.0, 0, -10, 5e6)), "shifted by up to 0.5 pixels"),
        (Grid(64, 64, UTM, (10.1, 0, 500_000.0, 0, -10, 5e6)), "shifted by up to 0.64 pixels"),
        (Grid(64, 64, UTM, (10.0, 0, 500_000.0, 0, 10, 5e6)), "shifted by up to 128 pixels"),
    ],
)
def test_difference_of_grids(other, says):
    assert GRID.difference(other).startswith(says)
    assert bool(GRID.difference(other)) == bool(other.difference(GRID)) == bool(says)


# ------------------------------------------------------------------------------------------------ writing


def test_what_is_written_is_a_cog_that_says_what_it_is(tmp_path):
    label = np.random.default_rng(0).integers(0, 2, (1, 700, 900)).astype(np.uint8)
    label[0, :100] = 255
    path = tmp_path / "out" / "a.tif"
    grid = Grid(700, 900, UTM, TRANSFORM)
    with Writer(path, grid, nodata=255, names=["land", "water"], colors=[(1, 2, 3), (4, 5, 6)]) as writer:
        for row in range(0, 700, 90):
            writer.write(row, label[:, row : row + 90])
        assert not path.exists()
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2, 4] and dataset.nodata == 255
        assert dataset.crs == rasterio.CRS.from_epsg(32633) and dataset.transform[:6] == TRANSFORM
        assert dataset.colormap(1)[1][:3] == (4, 5, 6)
        assert (dataset.tags(1)["CLASS_0"], dataset.tags(1)["CLASS_1"]) == ("land", "water")
        np.testing.assert_array_equal(dataset.read(), label)
    assert [p.name for p in path.parent.iterdir()] == ["a.tif"]


@pytest.mark.parametrize(("bands", "dtype"), [(1, "float32"), (3, "uint8"), (4, "uint8"), (4, "uint16"), (12, "int16")])
def test_written_images_are_read_back(tmp_path, bands, dtype):
    pixels = make_pixels(bands, 64, 64, dtype)
    names = [f"b{i}" for i in range(bands)]
    for _ in range(2):  # the second replaces the first
        write_cog(tmp_path / "a.tif", pixels, GRID, nodata=-1 if dtype == "int16" else 0, names=names)
    info = describe(str(tmp_path / "a.tif"))
    assert (info.bands, info.dtype, info.grid.difference(GRID)) == (tuple(names), dtype, "")
    np.testing.assert_array_equal(read(str(tmp_path / "a.tif"), ALL)[0], pixels)


def test_a_scene_without_coordinates_gives_a_raster_without(tmp_path):
    write_cog(tmp_path / "a.tif", make_pixels(1, 30, 20, "uint8"), Grid(30, 20))
    assert describe(str(tmp_path / "a.tif")).grid == Grid(30, 20)


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "a.tif").write_text("mine")
    with pytest.raises(OutputExists, match=r"a\.tif exists"):
        Writer(tmp_path / "a.tif", GRID)
    assert (tmp_path / "a.tif").read_text() == "mine"


def test_nothing_is_left_when_writing_fails(tmp_path):
    with pytest.raises(KeyError), Writer(tmp_path / "a.tif", GRID) as writer:
        writer.write(0, np.zeros((1, 30, 64), np.uint8))
        raise KeyError
    with pytest.raises(ValueError, match="0 of 64 rows"), Writer(tmp_path / "a.tif", GRID) as writer:
        writer.write(0, np.zeros((1, 63, 64), np.uint8))
    with pytest.raises(ValueError, match="rows 9 to 10 came"), Writer(tmp_path / "a.tif", GRID) as writer:
        writer.write(9, np.zeros((1, 1, 64), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"a\.tif: cannot be written"), Writer(tmp_path / "file" / "a.tif", GRID):
        pass
