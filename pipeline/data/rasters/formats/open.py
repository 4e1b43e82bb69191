"""Choose the reader of a file by its content, never by its name."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline import store
from pipeline.data.rasters import gdal_env as gdal_setup
from pipeline.data.rasters import raster_reader
from pipeline.data.rasters.formats import (
    arrays,
    dicom,
    dicom_header,
    exif_orientation,
    gdal,
    grib,
    hdf5,
    netcdf,
    nifti,
    signatures,
    slides,
    vrt,
    zarr,
)
from pipeline.data.rasters.raster_reader import Reader
from pipeline.data.rasters.remote_reader import RemoteReader
from pipeline.errors import DataError, SceneError, StorageError
from pipeline.recipe.data import Reading

_HEAD_BYTES: Final = 1024
_EXIF_BYTES: Final = 128 << 10
_NOT_HERE: Final = "missing codec"
_UNKNOWN: Final = "not recognized"
# Large ones are not copied whole only because GDAL failed once.
_COPIED_BYTES: Final = 64 << 20
_READ_IN_RANGES: Final = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg")


def open_reader(uri: str, *, label: bool, reading: Reading) -> Reader:
    """Open a raster of any format; GDAL is set up already.

    Args:
        uri: of a file, or of a folder with a DICOM series or Zarr.
        label: values are wanted as they are: a palette's indices, no clipping.
        reading: what the recipe says.

    Raises:
        FileNotFoundError: there is nothing.
        SceneError: it is empty, damaged, of no known format, or beyond the limits.
    """
    if not store.is_local(uri):
        variant = f"{label} {reading.model_dump_json()}"
        return RemoteReader(uri, lambda: _open_remote(uri, label, reading), variant=variant)
    path = Path(store.gdal_path(uri))
    if _is_folder(path):
        if zarr.is_zarr(uri):
            return zarr.open_zarr(uri, label=label, reading=reading)
        return dicom.open_dicom(uri, path, label=label, reading=reading)
    try:
        store.regular_file(uri)
    except DataError as error:
        raise SceneError(error.message, error.hint) from error
    return _as_shown(_open_file(uri, path, label, reading), path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _as_shown(reader: Reader, path: Path) -> Reader:
    """A picture as viewers show it, whatever way up it is stored."""
    try:
        with path.open("rb") as file:
            return exif_orientation.oriented(reader, file)
    except BaseException:
        reader.close()
        raise


def _open_file(uri: str, path: Path, label: bool, reading: Reading) -> Reader:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise SceneError(f"{uri}: the file is empty", "make or fetch it again")
    if dicom_header.is_dicom(head):  # its first 128 bytes may look like a TIFF
        return dicom.open_dicom(uri, path, label=label, reading=reading)
    if signatures.is_tiff(head):
        signatures.check_tiff(uri, path)
        signatures.check_sidecars(uri, path)
        return _open_tiff(uri, str(path), path, label, reading)
    content = nifti.unpacked(head) if head.startswith(nifti.GZIP_BEGIN) else head
    if nifti.is_nifti(content):
        return nifti.open_nifti(uri, path, label=label, reading=reading)
    if head.startswith(arrays.NPY_BEGIN):
        return arrays.open_npy(uri, path, label=label, reading=reading)
    if head.startswith(arrays.ZIP_BEGIN):
        return arrays.open_npz(uri, path, label=label, reading=reading)
    if netcdf.is_netcdf(head):
        return netcdf.open_netcdf(uri, path, label=label, reading=reading)
    if hdf5.is_hdf5(head):
        return hdf5.open_hdf5(uri, path, label=label, reading=reading)
    if grib.is_grib(head):
        grib.check_grib(uri, path)
        return gdal.open_gdal(uri, str(path), label=label, reading=reading, drivers=("GRIB",))
    if vrt.is_vrt(head):
        with raster_reader.parsing(uri):
            vrt.check_vrt(uri, path)
        return gdal.open_gdal(uri, str(path), label=label, reading=reading, drivers=("VRT",))
    if signatures.is_png(head):
        signatures.check_png(uri, path)
    signatures.check_sidecars(uri, path)
    return gdal.open_gdal(uri, str(path), label=label, reading=reading)


def _open_tiff(uri: str, gdal_path: str, path: Path | None, label: bool, reading: Reading) -> Reader:
    """By GDAL, unless its pages mean something that GDAL does not know, or it lacks the codec."""
    try:
        reader = gdal.open_gdal(uri, gdal_path, label=label, reading=reading)
    except gdal_setup.READ_ERRORS as error:
        if _NOT_HERE not in gdal_setup.reason(error):
            raise
    else:
        if not _is_slide(reader, reading):
            return reader
        reader.close()
    if path is None:
        path = store.local_file(uri)
        signatures.check_tiff(uri, path)
    return slides.open_slide(uri, path, label=label, reading=reading)


def _is_slide(reader: gdal.GdalReader, reading: Reading) -> bool:
    if reader.dataset.driver != "GTiff" or reader.dataset.crs is not None:
        return False
    tags = reader.dataset.tags()
    if reading.mpp is not None and not reader.grid.georeferenced:
        return True
    return slides.is_slide(tags.get("TIFFTAG_IMAGEDESCRIPTION", ""), tags.get("TIFFTAG_SOFTWARE", ""))


def _open_remote(uri: str, label: bool, reading: Reading) -> Reader:
    """A raster that GDAL reads is read in ranges; of others a copy is fetched, Zarr apart."""
    try:
        size = store.size_of(uri)
    except FileNotFoundError:
        size = 0  # a prefix is no file
    if size == 0:
        return _open_prefix(uri, label, reading)
    # A DICOM file may begin like a TIFF, and a VRT names others; asking costs a request, which rasters that are called
    # as such are spared.
    unusual = PurePosixPath(uri).suffix.lower() not in _READ_IN_RANGES
    head = store.read_start(uri, _HEAD_BYTES) if unusual else b""
    if vrt.is_vrt(head):
        return gdal.open_gdal(uri, vrt.inline_vrt(uri), label=label, reading=reading, drivers=("VRT",))
    if dicom_header.is_dicom(head):
        return _open_file(uri, store.local_file(uri), label, reading)
    try:
        reader = _open_tiff(uri, store.gdal_path(uri), None, label, reading)
        if reader.grid.georeferenced:
            return reader  # as it is stored, which costs no request
        return exif_orientation.oriented(reader, io.BytesIO(_with_exif(uri, size)))
    except gdal_setup.READ_ERRORS as error:
        if _UNKNOWN not in gdal_setup.reason(error):
            raise
        if size > _COPIED_BYTES and PurePosixPath(uri).suffix.lower() in _READ_IN_RANGES:
            raise
        # GDAL says so, too, of a store that does not answer.
        if isinstance(gdal_setup.failure(uri, error), StorageError):
            raise
    local = store.local_file(uri)
    return _as_shown(_open_file(uri, local, label, reading), local)


def _with_exif(uri: str, size: int) -> bytes:
    """The beginning of a file, so far as it holds the orientation tag, unless that is far behind the pixels.

    JPEG and PNG have it before them; WebP at the end, and TIFF where the header says.
    """
    head = store.read_start(uri, _EXIF_BYTES)
    end = min(size, exif_orientation.first_page(head) + _EXIF_BYTES) if signatures.is_tiff(head) else len(head)
    if head.startswith(b"RIFF"):
        end = size
    return store.read_start(uri, end) if len(head) < end <= _COPIED_BYTES else head


def _open_prefix(uri: str, label: bool, reading: Reading) -> Reader:
    if zarr.is_zarr(uri):
        return zarr.open_zarr(uri, label=label, reading=reading)
    if store.is_web(uri) or not store.list_files(uri):
        if store.exists(uri):
            raise SceneError(f"{uri}: the file is empty", "make or fetch it again")
        raise FileNotFoundError(uri)
    return dicom.open_dicom(uri, store.download_dir(uri), label=label, reading=reading)
