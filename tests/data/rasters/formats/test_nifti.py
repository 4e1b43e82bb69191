"""NIfTI, against nibabel."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

SHAPE = (9, 11, 7)  # in voxels towards left, back, head
STEPS = (2.0, 3.0, 5.0)


def volume(dtype: str = "int16") -> np.ndarray:
    """Values [left, back, head] that tell their place."""
    i, j, k = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return (i + 20 * j + 300 * k).astype(dtype)


def save(path, lps: np.ndarray, codes: str = "LPS", **header) -> str:
    """Write voxels [left, back, head] in another orientation, as scanners and programs do."""
    affine = np.diag([-STEPS[0], -STEPS[1], STEPS[2], 1.0])
    affine[:3, 3] = (40, 50, -60)
    image = nibabel.Nifti1Image(lps, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    image = image.as_reoriented(turn)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return str(path)


def expected(lps: np.ndarray, axis: str, number: int) -> np.ndarray:
    """A slice [rows, cols] as the docs say, written out."""
    if axis == "axial":
        return lps[:, :, number].T
    if axis == "coronal":
        return lps[:, number, ::-1].T
    return lps[number, :, ::-1].T


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PSR", "SLA", "IPL"])
def test_slices_are_the_same_whatever_the_files_orientation(tmp_path, axis, codes):
    data = volume()
    path = save(tmp_path / "a.nii", data, codes)
    reading = Reading(axis=axis)
    info = raster_io.describe(path, reading=reading)
    order = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}[axis]
    assert (info.slices, info.grid.height, info.grid.width) == tuple(SHAPE[n] for n in order)
    assert info.grid.crs is None and info.grid.transform[0] == STEPS[order[2]]
    assert abs(info.grid.transform[4]) == STEPS[order[1]] and info.dtype == "int16"
    for number in range(info.slices):
        whole = Window(0, 0, info.grid.height, info.grid.width, number)
        pixels, valid = raster_io.read(path, whole, reading=reading)
        np.testing.assert_array_equal(pixels[0], expected(data, axis, number))
        assert valid.all()


def test_the_grid_says_where_voxels_lie_in_millimetres(tmp_path):
    """Corner of the first pixel of an axial slice, in DICOM's coordinates (left, back)."""
    for codes in ("LPS", "RAS"):
        grid = raster_io.describe(save(tmp_path / "a.nii", volume(), codes)).grid
        assert grid.transform == pytest.approx((2.0, 0, -40 - 1.0, 0, 3.0, -50 - 1.5))
    upright = raster_io.describe(str(tmp_path / "a.nii"), reading=Reading(axis="coronal")).grid
    assert upright.transform == pytest.approx((2.0, 0, -41.0, 0, -5.0, -60 + 6 * 5 + 2.5))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "uint16", "float32", ">f4", "int8"])
def test_types_and_byte_orders(tmp_path, dtype, packed):
    data = (volume() % 120).astype(dtype)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    image = nibabel.Nifti1Image(data, np.eye(4))
    if dtype.startswith(">"):
        image = nibabel.Nifti1Image(data, np.eye(4), nibabel.Nifti1Header(endianness=">"))
        image.header.set_data_dtype(dtype)
    nibabel.save(image, path)
    canonical = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()[::-1, ::-1]
    for number in range(SHAPE[2]):
        pixels, valid = raster_io.read(str(path), Window(0, 0, SHAPE[1], SHAPE[0], number))
        np.testing.assert_array_equal(pixels[0], canonical[:, :, number].T)
        assert valid.all() and pixels.dtype.isnative
    assert raster_io.probe(str(path)) == raster_io.probe(str(path))


def test_a_fourth_dimension_is_bands(tmp_path):
    data = np.stack([volume("float32"), -volume("float32")], axis=-1)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1, -1, 1, 1])), tmp_path / "a.nii")
    info = raster_io.describe(str(tmp_path / "a.nii"))
    assert len(info.bands) == 2 and info.slices == 7
    pixels, _ = raster_io.read(str(tmp_path / "a.nii"), Window(0, 0, 11, 9, 3))
    np.testing.assert_array_equal(pixels, data[:, :, 3].transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, "float32"), (2, 0, "float32"), (0.5, 0, "float32"), (1, 0, "int16")],
)
def test_slope_and_intercept_are_applied(tmp_path, slope, intercept, dtype):
    path = save(tmp_path / "a.nii", volume())
    with Path(path).open("r+b") as file:  # nibabel would scale the values, too
        file.seek(112)
        file.write(np.array([slope, intercept], "<f4").tobytes())
    info = raster_io.describe(path)
    assert info.dtype == dtype
    pixels, _ = raster_io.read(path, Window(0, 0, 11, 9, 2))
    np.testing.assert_array_equal(pixels[0], nibabel.load(path).get_fdata()[:, :, 2].T)


def test_hounsfield_units_are_clipped_in_images_but_not_in_labels(tmp_path):
    path = save(tmp_path / "a.nii", volume())
    reading = Reading(hounsfield=(100, 900))
    assert raster_io.describe(path, reading=reading).dtype == "int16"
    pixels, _ = raster_io.read(path, Window(0, 0, 11, 9, 2), reading=reading)
    np.testing.assert_array_equal(pixels[0], expected(volume(), "axial", 2).clip(100, 900))
    label, _ = raster_io.read_label(path, Window(0, 0, 11, 9, 6), reading=reading)
    np.testing.assert_array_equal(label, expected(volume(), "axial", 6))


def test_windows_reach_outside_a_volume_in_every_direction(tmp_path):
    path = save(tmp_path / "a.nii.gz", volume())
    pixels, valid = raster_io.read(path, Window(-2, -3, 20, 20, 1))
    assert valid.sum() == 99 and valid[2:13, 3:12].all()
    np.testing.assert_array_equal(pixels[0, 2:13, 3:12], expected(volume(), "axial", 1))
    for number in (-1, 7):
        assert not raster_io.read(path, Window(0, 0, 5, 5, number))[1].any()


# ------------------------------------------------------------------------------------------------ bad input


def test_damaged_volumes(tmp_path):
    path = save(tmp_path / "a.nii", volume())
    whole = (tmp_path / "a.nii").read_bytes()

    def changed(offset: int, values: np.ndarray) -> bytes:
        data = bytearray(whole)
        data[offset : offset + values.nbytes] = values.tobytes()
        return bytes(data)

    cases = {
        "it has 1386 of 1386": None,
        "it has 1381 of 1386 bytes": whole[:-5],
        "cannot be read": whole[:348],
        "header claims 32767 × 32767 × 32767 pixels": changed(42, np.array([32767] * 3, "<i2")),
        r"it has no pixels|cannot be read": changed(42, np.array([-3, 4, 5], "<i2")),
        "its voxels begin at byte": changed(108, np.array([1e12], "<f4")),
        "voxels of type complex64": changed(70, np.array([32, 64], "<i2")),
        "another file": changed(344, np.frombuffer(b"ni1\0", "u1")),
        "6 dimensions": changed(40, np.array([6, 9, 11, 7, 1, 1, 2], "<i2")),
    }
    for says, data in itertools.islice(cases.items(), 1, None):
        (tmp_path / "a.nii").write_bytes(data)
        with pytest.raises(SceneError, match=says) as caught:
            raster_io.describe(path)
            raster_io.read(path, Window(0, 0, 5, 5))
        assert path in caught.value.message


def test_an_affine_without_numbers_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", volume())
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[280 : 280 + 48] = np.full(12, np.nan, "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(data))
    with pytest.raises(SceneError, match="its affine holds no numbers"):
        raster_io.describe(path)


def test_a_packed_volume_is_unpacked_no_further_than_it_says(tmp_path):
    path = save(tmp_path / "a.nii", volume())
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data + b"\0" * 50_000_000))
    pixels, _ = raster_io.read(str(tmp_path / "b.nii.gz"), Window(0, 0, 11, 9, 2))
    np.testing.assert_array_equal(pixels, raster_io.read(path, Window(0, 0, 11, 9, 2))[0])
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(data)[:-700])
    with pytest.raises(SceneError, match=r"c\.nii\.gz: cannot be read"):
        raster_io.describe(str(tmp_path / "c.nii.gz"))
    huge = bytearray(data)
    huge[42:48] = np.array([2000] * 3, "<i2").tobytes()
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(bytes(huge)))
    with pytest.raises(SceneError, match=r"a \.nii\.gz can only be read as a whole, and this one takes 14\.9 GiB"):
        raster_io.describe(str(tmp_path / "d.nii.gz"))
