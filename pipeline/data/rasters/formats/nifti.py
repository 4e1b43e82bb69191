"""NIfTI: volumes as stacks of two-dimensional slices, in one orientation whatever the file's.

Voxels are ordered towards the patient's left, back and head (DICOM's axes), so that a NIfTI file shows what the DICOM
series shows that it was made from. Rows and columns of a slice run:

    axial      rows to the back, columns to the left, slices to the head
    coronal    rows to the feet, columns to the left, slices to the back
    sagittal   rows to the feet, columns to the back, slices to the left

The grid has no CRS; its transform is in millimetres.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats.arrays import ArrayReader
from pipeline.data.rasters.formats.rescale import Rescale, result_dtype
from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.errors import SceneError
from pipeline.recipe.data import Reading

GZIP_BEGIN: Final = b"\x1f\x8b"
_HEADER_BYTES: Final = 352
_MAX_OFFSET: Final = 16 << 20
_PART_BYTES: Final = 1 << 20
# Axis of the volume (left, back, head) that slices, rows and columns run along, and whether rows run the other way.
_VIEWS: Final = {"axial": (2, 1, 0, False), "coronal": (1, 2, 0, True), "sagittal": (0, 2, 1, True)}


def is_nifti(head: bytes) -> bool:
    """Whether the first bytes (of the content, if it is compressed) are a NIfTI header."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def unpacked(head: bytes) -> bytes:
    """The first bytes of what is inside gzip; empty if it is damaged."""
    try:
        return zlib.decompressobj(31).decompress(head, _HEADER_BYTES)
    except zlib.error:
        return b""


def open_nifti(uri: str, path: Path, *, label: bool, reading: Reading) -> ArrayReader:
    """Open a .nii file, mapped, or a .nii.gz, which is unpacked to a temporary file first.

    Raises:
        SceneError: damaged, of a type that is no number, or not of three dimensions (and one of bands).
    """
    nibabel = raster_reader.library("nibabel", extra="medical", uri=uri)
    with raster_reader.parsing(uri):
        header, affine = _header(nibabel, path)
        dtype = header.get_data_dtype()
        shape = tuple(int(n) for n in header.get_data_shape())
        if header["magic"].item().startswith(b"ni"):
            raise SceneError(f"{uri}: the header of a NIfTI whose pixels are in another file", "save it as one .nii")
        if dtype.names or dtype.kind not in "buif":
            raise SceneError(f"{uri}: voxels of type {dtype}", "an image holds numbers")
        while len(shape) > 4 and shape[-1] == 1:
            shape = shape[:-1]
        if not 2 <= len(shape) <= 4:
            raise SceneError(
                f"{uri}: it has {len(shape)} dimensions", "three of space, and perhaps one of bands, are read"
            )
        shape = (*shape, 1, 1)[:4]
        if not np.isfinite(affine).all():
            raise SceneError(f"{uri}: its affine holds no numbers", "write it again")
        if not 0 <= header.get_data_offset() <= _MAX_OFFSET:
            raise SceneError(f"{uri}: its voxels begin at byte {header.get_data_offset()}", raster_reader.DAMAGED)
        raster_reader.check_size(uri, shape[0], shape[1], shape[2] * shape[3], reading)
        array = _map(uri, path, dtype, header.get_data_offset(), shape)
        stack, grid = _oriented(nibabel, array, affine, reading.axis)
        slope, intercept = header.get_slope_inter()
        scale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
        if not np.isfinite(scale).all():
            raise SceneError(f"{uri}: its slope and intercept are {scale}", "write it again")
    limits = None if label else reading.hounsfield
    native = dtype.newbyteorder("=")
    kind = result_dtype(native, [scale], limits=limits)
    slices, bands, height, width = stack.shape
    info = RasterInfo(
        grid,
        tuple(f"band_{i}" for i in range(1, bands + 1)),
        kind,
        slices,
        (height, width),
        ((height, width),),
        f"NIfTI {native}, {reading.axis} slices" + (", gzip" if _packed(path) else ""),
    )
    return ArrayReader(info, stack, Rescale(uri, *scale, kind, limits))


def _header(nibabel: Any, path: Path) -> tuple[Any, NDArray[np.float64]]:
    """The header alone. nibabel's own opening would follow file names."""
    with gzip.open(path) if _packed(path) else path.open("rb") as file:
        head = file.read(544)
    big = head[4:8] in (b"n+2\0", b"ni2\0")
    kind = nibabel.Nifti2Header if big else nibabel.Nifti1Header
    size = 540 if big else 348
    header = kind(head[:size], check=False)
    return header, np.asarray(header.get_best_affine(), np.float64)


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_BEGIN


def _map(uri: str, path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """The voxels, first axis fastest, as they are stored."""
    want = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not _packed(path):
        have = path.stat().st_size - offset
        if have < want:
            raise SceneError(f"{uri}: cannot be read (it has {have} of {want} bytes)", raster_reader.DAMAGED)
        return np.memmap(path, dtype, "r", offset, shape, "F")
    raster_reader.check_whole(uri, want, "a .nii.gz", "unpack it with gunzip; a .nii is read in parts")
    # Without a name: it goes when the map does.
    with tempfile.TemporaryFile(prefix="segpipe-") as file, gzip.open(path) as packed:
        packed.seek(offset)
        # Only what the header says, whatever else is in there.
        while file.tell() < want and (data := packed.read(min(_PART_BYTES, want - file.tell()))):
            file.write(data)
        if file.tell() < want:
            raise SceneError(f"{uri}: cannot be read (it has {file.tell()} of {want} bytes)", raster_reader.DAMAGED)
        file.flush()
        return np.memmap(file, dtype, "r", 0, shape, "F")


def _oriented(nibabel: Any, array: NDArray[Any], affine: NDArray[np.float64], axis: str) -> tuple[NDArray[Any], Grid]:
    """A view [slices, bands, rows, columns] of voxels [i, j, k, bands], and where its pixels lie."""
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(("L", "P", "S")))
    back = affine @ orientations.inv_ornt_aff(turn, array.shape[:3])
    # nibabel's world runs to the right, front and head.
    back = np.diag([-1.0, -1.0, 1.0, 1.0]) @ back
    steps = np.linalg.norm(back[:3, :3], axis=0)
    if not (steps > 0).all():
        raise ValueError(f"its affine has an axis of length 0: {affine.tolist()}")
    begin = (back[:3, :3] / steps).T @ back[:3, 3]  # of the first voxel's centre, along each axis
    slices, rows, cols, upside_down = _VIEWS[axis]
    view = orientations.apply_orientation(array, turn).transpose(slices, 3, rows, cols)
    top, step = begin[rows] - steps[rows] / 2, steps[rows]
    if upside_down:
        view = view[:, :, ::-1]
        top, step = top + steps[rows] * view.shape[2], -step
    left = begin[cols] - steps[cols] / 2
    transform = (float(steps[cols]), 0.0, float(left), 0.0, float(step), float(top))
    return view, Grid(view.shape[2], view.shape[3], None, transform)
