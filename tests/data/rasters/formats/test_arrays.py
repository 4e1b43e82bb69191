"""NumPy files."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

ALL = Window(0, 0, 30, 40)


def noise(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "order", "bands"),
    [((30, 40), "[H,W]", 1), ((30, 40, 3), "[H,W,C]", 3), ((5, 30, 40), "[C,H,W]", 5), ((30, 40, 30), "[C,H,W]", 30)],
)
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_axes_are_told_by_their_length(tmp_path, shape, order, bands, fortran, kind):
    data = noise(*shape)
    data = np.asfortranarray(data) if fortran else data
    path = str(tmp_path / f"a.{kind}")
    np.save(path, data) if kind == "npy" else np.savez_compressed(path, data)
    info = raster_io.describe(path)
    assert len(info.bands) == bands and order in info.format and info.dtype == "uint16"
    chw = data[None] if data.ndim == 2 else data if order == "[C,H,W]" else np.moveaxis(data, 2, 0)
    height, width = chw.shape[1:]
    assert (info.grid.height, info.grid.width) == (height, width)
    pixels, valid = raster_io.read(path, Window(3, 4, 20, 21))
    np.testing.assert_array_equal(pixels, chw[:, 3:23, 4:25])
    assert valid.all() and raster_io.probe(path)


@pytest.mark.parametrize("dtype", ["bool", "int8", ">u2", "<i2", ">f4", "float16", "float64"])
def test_any_type_and_byte_order(tmp_path, dtype):
    data = (noise(30, 40, dtype="uint8") % 2).astype(dtype)
    np.save(tmp_path / "a.npy", data)
    pixels, _ = raster_io.read(str(tmp_path / "a.npy"), ALL)
    assert pixels.dtype.name in raster_io.DTYPES and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels[0], data.astype(float))


def test_nan_is_invalid(tmp_path):
    data = noise(2, 30, 40, dtype="float32")
    data[1, 3, 4] = np.nan
    np.save(tmp_path / "a.npy", data)
    valid = raster_io.read(str(tmp_path / "a.npy"), ALL)[1]
    assert not valid[3, 4] and valid.sum() == 1199


def test_an_archive_says_which_array_is_the_image(tmp_path):
    path = str(tmp_path / "a.npz")
    np.savez(path, image=noise(3, 30, 40), mask=noise(30, 40, dtype="int64") - 3, other=noise(2, 2))
    np.testing.assert_array_equal(raster_io.read(path, ALL)[0], noise(3, 30, 40))
    np.testing.assert_array_equal(raster_io.read_label(path, ALL)[0], noise(30, 40, dtype="int64") - 3)
    np.savez(path, left=noise(30, 40), right=noise(30, 40))
    with pytest.raises(SceneError, match=r"a\.npz: a ZIP archive with arrays left, right"):
        raster_io.describe(path)


def test_a_mapped_file_is_not_loaded(tmp_path):
    """A file of 40 GB of zeros that take no place on the disk."""
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (4, 100_000, 100_000))
    array[2, 99_990, 99_990] = 7
    del array
    pixels, valid = raster_io.read(str(path), Window(99_980, 99_980, 20, 20))
    assert pixels[2, 10, 10] == 7 and pixels.sum() == 7 and valid.all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.zeros((2, 3, 4, 5)), r"an array of shape \(2, 3, 4, 5\)"),
        (np.zeros(5), r"an array of shape \(5,\)"),
        (np.zeros((0, 4)), r"an array of shape \(0, 4\)"),
        (np.array([["a", "b"]]), "an array of <U1"),
        (np.zeros((3, 3), [("a", "u1")]), "an array of"),
        (np.array([[{}, []]], object), "an array of object"),
        (np.zeros((3, 3), complex), "complex numbers"),
    ],
)
def test_what_is_no_image(tmp_path, data, says):
    np.save(tmp_path / "a.npy", data, allow_pickle=True)
    with pytest.raises(SceneError, match=rf"a\.npy: .*{says}"):
        raster_io.describe(str(tmp_path / "a.npy"))


def test_damaged_arrays(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, noise(30, 40))
    whole = path.read_bytes()
    for data, says in (
        (whole[:-1], "it has 2399 of 2400 bytes"),
        (whole[:60], "cannot be read"),
        (whole.replace(b"(30, 40)", b"(30,4e9)"), "cannot be read"),
        (whole.replace(b"(30, 40), ", b"(9999999,)"), r"an array of shape \(9999999,\)"),
        (whole.replace(b"(30, 40), }   ", b"(999999, 99999999)}"), "header claims|cannot be read"),
    ):
        path.write_bytes(data)
        with pytest.raises(SceneError, match=says):
            raster_io.describe(str(path))


def test_an_archive_that_would_unpack_to_very_much_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    head = np.lib.format
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image.npy", "w") as file:
        head.write_array_header_1_0(file, {"shape": (50_000, 50_000), "fortran_order": False, "descr": "|u1"})
        file.write(b"\0" * 1000)
    with pytest.raises(SceneError, match=r"can only be read as a whole, and this one takes 2\.3 GiB") as caught:
        raster_io.describe(str(path))
    assert ".npy" in caught.value.hint
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image.npy", "w") as file:
        head.write_array_header_1_0(file, {"shape": (10, 10), "fortran_order": False, "descr": "|u1"})
        file.write(b"\0" * 5_000_000)
    with pytest.raises(SceneError, match="not as long as it says"):
        raster_io.describe(str(path))


def test_the_pixel_limit_holds_before_anything_is_read(tmp_path):
    np.save(tmp_path / "a.npy", noise(30, 40))
    with pytest.raises(SceneError, match="header claims 40 × 30 pixels"):
        raster_io.describe(str(tmp_path / "a.npy"), reading=Reading(max_pixels=1000))
