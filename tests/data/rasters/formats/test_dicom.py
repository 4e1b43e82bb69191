"""DICOM, against pydicom's own arrays."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    MPEG2MPML,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

SERIES = generate_uid(entropy_srcs=["one"])


def noise(*shape: int, dtype: str = "int16", low: int = 0, high: int = 2000) -> np.ndarray:
    return np.random.default_rng(3).integers(low, high, shape).astype(dtype)


def dataset(pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **elements) -> FileDataset:
    """An image [h,w], [h,w,3] or frames [n,h,w] of a CT scanner."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesInstanceUID = "CT", SERIES
    color = pixels.ndim == 3 and pixels.shape[-1] == 3
    data.Rows, data.Columns = pixels.shape[:2] if color else pixels.shape[-2:]
    if pixels.ndim == 3 and not color:
        data.NumberOfFrames = len(pixels)
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if color else (1, "MONOCHROME2")
    if color:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(data, name, value)
    if syntax in (RLELossless, JPEGLSLossless):
        data.compress(syntax, generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        code = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0)
        data.PixelData = pydicom.encaps.encapsulate([code])
        data["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    data.set_original_encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    return data


def save(path, pixels: np.ndarray, **options) -> str:
    dataset(pixels, **options).save_as(path, enforce_file_format=True)
    return str(path)


def place(z: float, orientation=(1, 0, 0, 0, 1, 0), origin=(-30.0, -20.0)) -> dict:
    """Elements that put an axial slice in space."""
    return {
        "ImageOrientationPatient": list(orientation),
        "ImagePositionPatient": [*origin, z],
        "PixelSpacing": [2.0, 0.5],
    }


def whole(path, number: int = 0, **options):
    info = raster_io.describe(str(path), **options)
    return raster_io.read(str(path), Window(0, 0, info.grid.height, info.grid.width, number), **options)


# ------------------------------------------------------------------------------------------------ single files


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_transfer_syntaxes(tmp_path, syntax, dtype):
    if syntax == JPEGLSLossless and dtype == "int16":
        dtype = "uint16"
    pixels = noise(20, 30, dtype=dtype, high=250)
    path = save(tmp_path / "a", pixels, syntax=syntax)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels)
    seen, valid = raster_io.read(path, Window(-2, 3, 15, 20))
    np.testing.assert_array_equal(seen[0, 2:], pixels[:13, 3:23])
    assert seen.dtype == dtype and valid[2:].all() and not valid[:2].any() and raster_io.probe(path)


def test_colours(tmp_path):
    pixels = noise(20, 30, 3, dtype="uint8", high=250)
    path = save(tmp_path / "a.dcm", pixels)
    np.testing.assert_array_equal(whole(path)[0], pixels.transpose(2, 0, 1))
    ycc = np.dstack([noise(20, 30, dtype="uint8", high=250), np.full((20, 30, 2), 128, np.uint8)])
    grey = whole(save(tmp_path / "b.dcm", ycc, PhotometricInterpretation="YBR_FULL"))[0]
    np.testing.assert_array_equal(grey, np.repeat(ycc[None, ..., 0], 3, axis=0))


def test_a_palette_is_colours_in_an_image_and_numbers_in_a_label(tmp_path):
    pixels = noise(20, 30, dtype="uint8", high=4)
    tables = {"Red": [1, 2, 3, 4], "Green": [10, 20, 30, 40], "Blue": [100, 110, 120, 130]}
    elements: dict = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, values in tables.items():
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [4, 0, 8]
        elements[f"{color}PaletteColorLookupTableData"] = bytes(values)
    path = save(tmp_path / "a.dcm", pixels, **elements)
    expected = np.stack([np.array(values, np.uint8)[pixels] for values in tables.values()])
    assert raster_io.describe(path).dtype == "uint8"
    np.testing.assert_array_equal(whole(path)[0], expected)
    np.testing.assert_array_equal(raster_io.read_label(path, Window(0, 0, 20, 30))[0], pixels)


@pytest.mark.parametrize(
    ("stored", "scale", "dtype"),
    [("uint16", (1, -1024), "int16"), ("int16", (1, 0), "int16"), ("int16", (0.5, 3), "float32")],
)
def test_stored_values_become_hounsfield_units(tmp_path, stored, scale, dtype):
    pixels = noise(20, 30, dtype=stored)
    path = save(tmp_path / "a.dcm", pixels, RescaleSlope=scale[0], RescaleIntercept=scale[1])
    seen, valid = whole(path)
    assert seen.dtype == dtype == raster_io.describe(path).dtype and valid.all()
    np.testing.assert_array_equal(seen[0], pixels.astype(float) * scale[0] + scale[1])
    clipped, _ = whole(path, reading=Reading(hounsfield=(-160, 240)))
    np.testing.assert_array_equal(clipped, seen.clip(-160, 240))


def test_a_value_beyond_the_type_is_refused_unless_limits_are_given(tmp_path):
    pixels = np.array([[60_000, 5]], np.uint16)
    path = save(tmp_path / "a.dcm", pixels, RescaleSlope=1, RescaleIntercept=-1024)
    with pytest.raises(SceneError, match=r"a\.dcm: a value of 58976 cannot be held by int16") as caught:
        whole(path)
    assert "hounsfield" in caught.value.hint
    seen, _ = whole(path, reading=Reading(hounsfield=(-1024, 3071)))
    assert seen.tolist() == [[[3071, -1019]]]


def test_padding_is_invalid(tmp_path):
    pixels = noise(20, 30)
    pixels[3, 4], pixels[5, 6] = -2000, -1995
    elements = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    path = save(tmp_path / "a.dcm", pixels, PixelPaddingValue=-2000, **elements)
    assert np.argwhere(~whole(path)[1]).tolist() == [[3, 4]]
    save(tmp_path / "a.dcm", pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990, **elements)
    assert np.argwhere(~whole(path)[1]).tolist() == [[3, 4], [5, 6]]


def test_frames_are_slices(tmp_path):
    pixels = noise(4, 20, 30, dtype="uint16")
    path = save(tmp_path / "a.dcm", pixels)
    assert raster_io.describe(path).slices == 4
    for number in (2, 0, 3):
        np.testing.assert_array_equal(whole(path, number)[0][0], pixels[number])


def test_frames_lie_where_they_say(tmp_path):
    pixels = noise(3, 20, 30, dtype="uint16")
    groups = []
    for z in (9.0, 3.0, 6.0):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, z]
        group.PlanePositionSequence = [position]
        groups.append(group)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [2.0, 0.5]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    elements = {"PerFrameFunctionalGroupsSequence": groups, "SharedFunctionalGroupsSequence": [shared]}
    path = save(tmp_path / "a.dcm", pixels, **elements)
    assert [whole(path, n)[0][0].tolist() == pixels[k].tolist() for n, k in enumerate((1, 2, 0))] == [True] * 3
    assert raster_io.describe(path).grid.transform == (0.5, 0, -0.25, 0, 2.0, -1.0)


def test_a_file_without_preamble_is_known(tmp_path):
    data = dataset(noise(20, 30), syntax=ImplicitVRLittleEndian)
    data.preamble = None
    del data.file_meta.MediaStorageSOPClassUID
    pydicom.dcmwrite(tmp_path / "a", data, implicit_vr=True, little_endian=True)
    raw = (tmp_path / "a").read_bytes()
    if raw[128:132] == b"DICM":
        raw = raw[132:]
    (tmp_path / "a").write_bytes(raw)
    np.testing.assert_array_equal(whole(tmp_path / "a")[0][0], noise(20, 30))


def test_a_preamble_that_looks_like_a_tiff_deceives_nobody(tmp_path):
    path = save(tmp_path / "a.dcm", noise(20, 30))
    raw = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(b"II*\0" + raw[4:])
    np.testing.assert_array_equal(whole(path)[0][0], noise(20, 30))


# ------------------------------------------------------------------------------------------------ series


def series(folder, heights, **options) -> np.ndarray:
    """Slices [n,h,w] at given heights, in files whose names are in no order."""
    folder.mkdir(exist_ok=True)
    pixels = noise(len(heights), 20, 30)
    for n, z in enumerate(heights):
        save(folder / f"{(n * 7) % 11}.dcm", pixels[n], InstanceNumber=50 - n, **{**place(z), **options})
    return pixels


def test_slices_of_a_folder_are_in_the_order_of_their_positions(tmp_path):
    heights = [5.0, -10.0, 0.0, 20.0]
    pixels = series(tmp_path / "scan", heights)
    (tmp_path / "scan" / "DICOMDIR").write_bytes(b"x")
    (tmp_path / "scan" / "notes.txt").write_text("nothing")
    info = raster_io.describe(str(tmp_path / "scan"))
    assert info.slices == 4 and info.grid.transform == (0.5, 0, -30.25, 0, 2.0, -21.0)
    assert info.format == "DICOM CT (Explicit VR Little Endian), axial slices"
    for number, n in enumerate(np.argsort(heights)):
        np.testing.assert_array_equal(whole(tmp_path / "scan", number)[0][0], pixels[n])
    assert raster_io.probe(str(tmp_path / "scan"))


def test_sagittal_slices_run_to_the_left(tmp_path):
    (tmp_path / "scan").mkdir()
    pixels = noise(3, 20, 30)
    for n, x in enumerate((30.0, -30.0, 0.0)):
        elements = {**place(0, (0, 1, 0, 0, 0, -1)), "ImagePositionPatient": [x, -20.0, 100.0]}
        save(tmp_path / "scan" / f"{n}.dcm", pixels[n], **elements)
    assert raster_io.describe(str(tmp_path / "scan")).format.endswith("sagittal slices")
    for number, n in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(whole(tmp_path / "scan", number)[0][0], pixels[n])
    with pytest.raises(SceneError, match=r"its slices are sagittal, but data\.reading\.axis asks for coronal"):
        raster_io.describe(str(tmp_path / "scan"), reading=Reading(axis="coronal"))


def test_a_nifti_of_the_same_slices_shows_the_same(tmp_path):
    import nibabel

    pixels = series(tmp_path / "scan", [0.0, 5.0, 10.0])
    affine = np.array([[-0.5, 0, 0, 30.0], [0, -2.0, 0, 20.0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(pixels.transpose(2, 1, 0), affine), tmp_path / "a.nii")
    one, other = raster_io.describe(str(tmp_path / "scan")), raster_io.describe(str(tmp_path / "a.nii"))
    assert one.grid.difference(other.grid) == "" and one.grid.transform == pytest.approx(other.grid.transform)
    for number in range(3):
        for first, second in zip(whole(tmp_path / "scan", number), whole(tmp_path / "a.nii", number), strict=True):
            np.testing.assert_array_equal(first, second)


def test_slices_without_positions_are_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "scan").mkdir()
    pixels = noise(3, 20, 30)
    for n, number in enumerate((30, 4, 17)):
        save(tmp_path / "scan" / f"{n}.dcm", pixels[n], InstanceNumber=number)
    for number, n in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(whole(tmp_path / "scan", number)[0][0], pixels[n])


def test_what_is_not_one_series(tmp_path):
    scan = tmp_path / "scan"
    series(scan, [0.0, 5.0])
    save(scan / "x.dcm", noise(20, 30), **place(5.0))
    with pytest.raises(SceneError, match=r"scan: .*\.dcm and .*\.dcm lie at the same place"):
        raster_io.describe(str(scan))
    save(scan / "x.dcm", noise(20, 31), **place(9.0))
    with pytest.raises(SceneError, match=r"scan: .* differ: .*31 × 20, 1 × int16"):
        raster_io.describe(str(scan))
    save(scan / "x.dcm", noise(20, 30), SeriesInstanceUID=generate_uid(), **place(9.0))
    with pytest.raises(SceneError, match="scan: the folder holds 2 DICOM series"):
        raster_io.describe(str(scan))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="empty: a folder without DICOM files or Zarr"):
        raster_io.describe(str(tmp_path / "empty"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "rgb"])
def test_lossless_jpeg_needs_the_codecs_of_slides(tmp_path, dtype):
    color = dtype == "rgb"
    pixels = noise(20, 30, 3, dtype="uint8", high=250) if color else noise(20, 30, dtype=dtype, high=250)
    if dtype == "int16":
        pixels -= 100
    data = dataset(pixels)
    raw = pixels.view(np.uint16) if dtype == "int16" else pixels
    spaces = {"colorspace": "rgb", "outcolorspace": "rgb"} if color else {}
    code = imagecodecs.jpeg8_encode(raw, lossless=True, bitspersample=data.BitsStored, **spaces)
    data.PixelData = pydicom.encaps.encapsulate([code])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(whole(tmp_path / "a.dcm")[0], pixels.transpose(2, 0, 1) if color else pixels[None])


# ------------------------------------------------------------------------------------------------ bad input


def test_a_compression_that_cannot_be_read_is_named(tmp_path):
    data = dataset(noise(20, 30))
    data.PixelData = pydicom.encaps.encapsulate([b"\0\0\1\xb3 a film"])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = MPEG2MPML
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(SceneError, match=r"a\.dcm is compressed as MPEG2 Main Profile"):
        whole(tmp_path / "a.dcm")


def test_files_without_pixels(tmp_path):
    data = dataset(noise(20, 30))
    for name in ("PixelData", "Rows", "BitsAllocated"):
        delattr(data, name)
    data.Modality = "RTSTRUCT"
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(SceneError, match=r"a\.dcm: no pixel data \(it is RTSTRUCT\)"):
        raster_io.describe(str(tmp_path / "a.dcm"))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_was_cut_off(tmp_path, share):
    path = save(tmp_path / "a.dcm", noise(20, 30))
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SceneError, match=r"a\.dcm"):
        raster_io.probe(path)


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path):
    path = save(tmp_path / "a.dcm", noise(20, 30), Rows=65_535, Columns=65_535)
    with pytest.raises(SceneError, match="stored in blocks of 65535 × 65535 pixels, so that any window needs 7 GiB"):
        raster_io.describe(path)
    save(tmp_path / "a.dcm", noise(20, 30), NumberOfFrames=2_000_000_000)
    with pytest.raises(SceneError, match="header claims 2000000000 frames"):
        raster_io.describe(path)
