"""Slides and microscopy, against tifffile's own reading of whole images."""

from __future__ import annotations

import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile

from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

SVS = "Aperio Image Library v11.2.1 \n{w}x{h} ({t}x{t}) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Colours [height,width,channels] that JPEG keeps."""
    row, col = np.mgrid[:height, :width]
    return np.stack([(row * (i + 1) + col) // 4 % 256 for i in range(channels)], axis=-1).astype(np.uint8)


def pyramid(base: np.ndarray, count: int) -> list[np.ndarray]:
    """An image and its halves."""
    found = [base]
    for _ in range(count - 1):
        last = found[-1][: found[-1].shape[0] // 2 * 2, : found[-1].shape[1] // 2 * 2].astype(np.float32)
        found.append(((last[::2, ::2] + last[1::2, ::2] + last[::2, 1::2] + last[1::2, 1::2]) / 4).astype(base.dtype))
    return found


def svs(path, *, levels: int = 3, compression: str = "jpeg") -> list[np.ndarray]:
    """A slide as Aperio writes it: base, thumbnail, other levels, label and macro."""
    images = pyramid(smooth(700, 900), levels)
    text = SVS.format(w=900, h=700, t=128)
    options = {"photometric": "rgb", "metadata": None, "compression": compression}
    with tifffile.TiffWriter(path) as writer:
        writer.write(images[0], tile=(128, 128), description=text, **options)
        writer.write(smooth(100, 128), description=f"{text} -> 128x100", rowsperstrip=16, **options)
        for image in images[1:]:
            note = f"{text} -> {image.shape[1]}x{image.shape[0]}"
            writer.write(image, tile=(128, 128), description=note, subfiletype=0, **options)
        for name in ("label", "macro"):
            note = f"Aperio Image Library\n{name} 90x80"
            writer.write(smooth(80, 90), description=note, subfiletype=1, rowsperstrip=80, **options)
    return images


def wholes(path) -> list[np.ndarray]:
    """Levels [C,h,w] as tifffile decodes them."""
    with tifffile.TiffFile(path) as file:
        return [level.asarray().transpose(2, 0, 1) for level in file.series[0].levels]


# ------------------------------------------------------------------------------------------------ SVS


def test_a_slide_has_its_own_levels_and_no_label_or_thumbnail(tmp_path):
    images = svs(tmp_path / "a.svs")
    info = raster_io.describe(str(tmp_path / "a.svs"))
    assert info.levels == tuple(image.shape[:2] for image in images) == ((700, 900), (350, 450), (175, 225))
    assert info.grid.transform == (0.5, 0, 0, 0, 0.5, 0) and info.grid.crs is None
    assert info.tile == (128, 128) and info.format == "SVS jpeg, 0.5 µm per pixel"
    assert raster_io.probe(str(tmp_path / "a.svs"))


@pytest.mark.parametrize("compression", ["jpeg", "zlib", "lzw"])
def test_windows_are_cuts_of_the_whole(tmp_path, compression):
    path = tmp_path / "a.svs"
    svs(path, compression=compression)
    expected = wholes(path)
    for window in (
        Window(0, 0, 700, 900),
        Window(100, 130, 300, 200),
        Window(690, 880, 10, 20),
        Window(127, 127, 2, 2),
    ):
        pixels, valid = raster_io.read(str(path), window)
        area = np.s_[:, window.row : window.row + window.height, window.col : window.col + window.width]
        np.testing.assert_array_equal(pixels, expected[0][area])
        assert valid.all()
    # At half the scale it is the level itself.
    half, _ = raster_io.read(str(path), Window(100, 200, 128, 256), shape=(64, 128))
    np.testing.assert_array_equal(half, expected[1][:, 50:114, 100:228])
    outside, valid = raster_io.read(str(path), Window(-10, 850, 50, 100))
    assert valid[10:, :50].all() and valid.sum() == 40 * 50 and not outside[:, ~valid].any()


@pytest.mark.parametrize(("mpp", "level"), [(0.1, 0), (0.6, 0), (0.8, 1), (1.0, 1), (1.9, 2), (40.0, 2)])
def test_micrometres_choose_the_level(tmp_path, mpp, level):
    path = str(tmp_path / "a.svs")
    svs(path)
    reading = Reading(mpp=mpp)
    info = raster_io.describe(path, reading=reading)
    size = wholes(path)[level].shape[1:]
    assert (info.grid.height, info.grid.width) == size and info.levels[0] == size and len(info.levels) == 3 - level
    assert info.grid.transform[0] == pytest.approx(0.5 * 2**level)
    pixels, _ = raster_io.read(path, Window(10, 20, 100, 110), reading=reading)
    np.testing.assert_array_equal(pixels, wholes(path)[level][:, 10:110, 20:130])


def test_colours_of_aperios_jpeg_2000_are_turned_to_rgb(tmp_path):
    path = tmp_path / "a.svs"
    base = smooth(256, 256)
    y = base.astype(float) @ np.array([[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312]])
    y[..., 1:] += 128
    ycc = np.rint(y).clip(0, 255).astype(np.uint8)

    def tiles():
        for row in (0, 128):
            for col in (0, 128):
                tile = np.ascontiguousarray(ycc[row : row + 128, col : col + 128])
                yield imagecodecs.jpeg2k_encode(tile, codecformat="j2k", mct=False, reversible=True, level=0)

    with tifffile.TiffWriter(path) as writer:
        writer.write(
            tiles(),
            shape=(256, 256, 3),
            dtype=np.uint8,
            tile=(128, 128),
            compression=33003,
            photometric="rgb",
            description=SVS.format(w=256, h=256, t=128),
            metadata=None,
        )
    pixels, _ = raster_io.read(str(path), Window(0, 0, 256, 256))
    np.testing.assert_allclose(pixels.transpose(1, 2, 0).astype(int), base.astype(int), atol=3)


def test_tiles_that_a_scanner_left_out_are_invalid(tmp_path):
    path = tmp_path / "a.svs"
    svs(path, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        counts = list(page.databytecounts)
        counts[9] = 0  # the second tile of the second row
        page.tags["TileByteCounts"].overwrite(counts)
    _, valid = raster_io.read(str(path), Window(0, 0, 700, 900))
    expected = np.ones((700, 900), bool)
    expected[128:256, 128:256] = False
    np.testing.assert_array_equal(valid, expected)


# ------------------------------------------------------------------------------------------------ OME-TIFF, ImageJ


def test_ome_tiff_has_named_channels_focal_planes_and_a_scale(tmp_path):
    path = tmp_path / "a.ome.tif"
    data = np.random.default_rng(0).integers(0, 4000, (3, 2, 300, 400)).astype(np.uint16)
    metadata = {
        "axes": "ZCYX",
        "PhysicalSizeX": 250,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    tifffile.imwrite(path, data, ome=True, tile=(64, 64), metadata=metadata, compression="zlib")
    info = raster_io.describe(str(path))
    assert (info.slices, info.bands, info.dtype) == (3, ("DAPI", "GFP"), "uint16")
    assert info.grid.transform == pytest.approx((0.25, 0, 0, 0, 0.5, 0)) and info.format.startswith("OME-TIFF")
    for number in range(3):
        pixels, valid = raster_io.read(str(path), Window(33, 44, 100, 90, number))
        np.testing.assert_array_equal(pixels, data[number, :, 33:133, 44:134])
        assert valid.all()
    pixels, valid = raster_io.read(str(path), Window(0, 0, 10, 10, 3))
    assert not valid.any() and not pixels.any()


def test_ome_tiff_keeps_levels_in_sub_pages_of_every_channel(tmp_path):
    path = tmp_path / "a.ome.tif"
    data = np.random.default_rng(0).integers(0, 255, (2, 256, 512)).astype(np.uint8)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(data, subifds=2, tile=(64, 64), metadata={"axes": "CYX"})
        writer.write(data[:, ::2, ::2] // 2, subfiletype=1, tile=(64, 64))
        writer.write(data[:, ::4, ::4] // 4, subfiletype=1, tile=(64, 64))
    info = raster_io.describe(str(path))
    assert info.levels == ((256, 512), (128, 256), (64, 128)) and len(info.bands) == 2
    pixels, _ = raster_io.read(str(path), Window(64, 128, 128, 256), shape=(32, 64))
    np.testing.assert_array_equal(pixels, data[:, 64:192:4, 128:384:4] // 4)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_samples_side_by_side_or_apart(tmp_path, planar, dtype):
    path = tmp_path / "a.ome.tif"
    data = np.random.default_rng(0).integers(0, 200, (130, 200, 3)).astype(dtype)
    stored = data if planar == "contig" else np.moveaxis(data, 2, 0)
    axes = "YXS" if planar == "contig" else "SYX"
    options = {"photometric": "rgb", "planarconfig": planar, "metadata": {"axes": axes}}
    for name, layout in {"tiles": {"tile": (64, 64)}, "strips": {"rowsperstrip": 7}}.items():
        file = path.with_name(f"{name}.ome.tif")
        tifffile.imwrite(file, stored, ome=True, compression="deflate", predictor=True, **layout, **options)
        pixels, valid = raster_io.read(str(file), Window(5, 3, 120, 190))
        np.testing.assert_array_equal(pixels, np.moveaxis(data, 2, 0)[:, 5:125, 3:193])
        assert valid.all() and len(raster_io.describe(str(file)).bands) == 3


def test_alpha_is_no_band_but_hides(tmp_path):
    data = np.random.default_rng(0).integers(1, 200, (100, 80, 4)).astype(np.uint8)
    data[..., 3] = 255
    data[:30, :20, 3] = 0
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "metadata": {"axes": "YXS"}}
    tifffile.imwrite(tmp_path / "a.ome.tif", data, ome=True, tile=(64, 64), **options)
    pixels, valid = raster_io.read(str(tmp_path / "a.ome.tif"), Window(0, 0, 100, 80))
    np.testing.assert_array_equal(pixels, data[..., :3].transpose(2, 0, 1))
    np.testing.assert_array_equal(valid, data[..., 3] > 0)


def test_stacks_of_imagej_are_slices_of_all_channels(tmp_path):
    data = np.random.default_rng(0).integers(0, 60_000, (4, 2, 50, 70)).astype(np.uint16)
    metadata = {"axes": "ZCYX", "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    info = raster_io.describe(str(tmp_path / "a.tif"))
    assert (info.slices, len(info.bands)) == (4, 2) and info.format.startswith("ImageJ TIFF")
    assert info.grid.transform == pytest.approx((0.25, 0, 0, 0, 0.5, 0))
    for number in range(4):
        pixels, _ = raster_io.read(str(tmp_path / "a.tif"), Window(5, 6, 40, 50, number))
        np.testing.assert_array_equal(pixels, data[number, :, 5:45, 6:56])


def test_several_times_are_refused(tmp_path):
    data = np.zeros((3, 32, 32), np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", data, ome=True, metadata={"axes": "TYX"})
    with pytest.raises(SceneError, match=r"a\.ome\.tif: axes TYX of \(3, 32, 32\); T=3"):
        raster_io.describe(str(tmp_path / "a.ome.tif"))


def test_metadata_that_claim_very_many_planes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((32, 32), np.uint8), ome=True)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        text = file.ome_metadata.replace('SizeZ="1"', 'SizeZ="999999999"').replace('SizeT="1"', 'SizeT="9"')
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((32, 32), np.uint8), description=text.encode(), metadata=None)
    with pytest.raises(SceneError, match=r"a\.ome\.tif: its metadata claim 8999999991 planes"):
        raster_io.describe(str(tmp_path / "a.ome.tif"))


def test_a_label_may_be_ome_tiff(tmp_path):
    data = np.random.default_rng(0).integers(0, 9, (100, 80)).astype(np.int32)
    tifffile.imwrite(tmp_path / "a.ome.tif", data, ome=True, tile=(32, 32))
    label, valid = raster_io.read_label(str(tmp_path / "a.ome.tif"), Window(10, 10, 80, 60))
    np.testing.assert_array_equal(label, data[10:90, 10:70])
    assert valid.all()


# ------------------------------------------------------------------------------------------------ plain TIFF


def test_a_plain_tiff_with_a_resolution_has_levels_by_micrometre(tmp_path):
    images = pyramid(smooth(256, 512), 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "resolutionunit": "CENTIMETER"}
        writer.write(images[0], subifds=2, resolution=(20_000, 20_000), **options)
        for n, image in enumerate(images[1:], 1):
            writer.write(image, subfiletype=1, resolution=(20_000 / 2**n, 20_000 / 2**n), **options)
    info = raster_io.describe(str(tmp_path / "a.tif"), reading=Reading(mpp=1.0))
    assert (info.grid.height, info.grid.width) == (128, 256) and info.grid.transform[0] == pytest.approx(1.0)
    pixels, _ = raster_io.read(str(tmp_path / "a.tif"), Window(0, 0, 128, 256), reading=Reading(mpp=1.0))
    np.testing.assert_array_equal(pixels, images[1].transpose(2, 0, 1))


def test_a_file_without_resolution_cannot_be_chosen_by_it(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", smooth(64, 64), photometric="rgb", metadata=None, resolution=(72, 72))
    for resolution in ((72, 72), (300, 300)):  # what programs write that know nothing
        tifffile.imwrite(
            tmp_path / "a.tif",
            smooth(64, 64),
            photometric="rgb",
            metadata=None,
            resolution=resolution,
            resolutionunit=2,
        )
        with pytest.raises(SceneError, match="does not say how many micrometres a pixel is"):
            raster_io.describe(str(tmp_path / "a.tif"), reading=Reading(mpp=0.5))
    assert raster_io.describe(str(tmp_path / "a.tif")).format.startswith("GTiff")


def test_a_compression_that_gdal_lacks_is_read_by_tifffile(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(256, 256), tile=(128, 128), compression="jpegxr", photometric="rgb", metadata=None)
    expected = tifffile.imread(path).transpose(2, 0, 1)
    pixels, _ = raster_io.read(str(path), Window(10, 20, 200, 210))
    np.testing.assert_array_equal(pixels, expected[:, 10:210, 20:230])


# ------------------------------------------------------------------------------------------------ bad input


def test_without_the_library_the_error_names_the_extra(tmp_path):
    svs(tmp_path / "a.svs")
    code = (
        "import sys; sys.modules['tifffile'] = None\n"
        "from pipeline.data.rasters import raster_io\n"
        "from pipeline.errors import SceneError\n"
        f"try: raster_io.describe({str(tmp_path / 'a.svs')!r})\n"
        "except SceneError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "a.svs: reading it needs the library tifffile" in done.stdout
    assert "pip install 'segpipe[wsi]'" in done.stdout


def test_a_slide_that_was_cut_off_is_found(tmp_path):
    path = tmp_path / "a.svs"
    svs(path)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        end = file.pages[0].dataoffsets[-1]
    broken = bytearray(data)
    broken[end : end + 2000] = b"\0" * 2000
    path.write_bytes(bytes(broken))
    with pytest.raises(SceneError, match=r"a\.svs: cannot be read"):
        raster_io.probe(str(path))


def test_pages_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "a.svs"
    svs(path)
    with tifffile.TiffFile(path) as file:
        pages = [page.offset for page in file.pages]
    data = bytearray(path.read_bytes())
    last = pages[-1]
    count = int.from_bytes(data[last : last + 2], "little")
    data[last + 2 + 12 * count : last + 6 + 12 * count] = pages[0].to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(SceneError, match=r"a\.svs: cannot be read"):
        raster_io.probe(str(path))
