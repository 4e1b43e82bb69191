"""Write rasters strip by strip into a cloud-optimised GeoTIFF that appears when it is complete."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as GdalWindow

from pipeline import store
from pipeline.data.rasters import gdal_env
from pipeline.data.rasters.grids import Grid
from pipeline.errors import OutputExists, StorageError

_BLOCK: Final = 256
_WRITING: Final = ".writing-"
"""Begins the names of folders of unfinished rasters; machine and process follow."""


def write_cog(
    path: str | Path,
    array: NDArray[Any],
    grid: Grid,
    *,
    nodata: float | None = None,
    names: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
) -> None:
    """Write pixels [C, H, W] as a cloud-optimised GeoTIFF; an older file is replaced. Arguments as for `Writer`."""
    with Writer(
        path,
        grid,
        count=array.shape[0],
        dtype=str(array.dtype),
        nodata=nodata,
        names=names,
        colors=colors,
        overwrite=True,
    ) as writer:
        writer.write(0, array)


def _profile(grid: Grid, count: int, dtype: str, nodata: float | None) -> dict[str, Any]:
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": count,
        "dtype": dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": "DEFLATE",
        "zlevel": 1,  # read once and thrown away
        "bigtiff": "IF_SAFER",
        # GDAL would take a fourth band of bytes for alpha.
        "photometric": "RGB" if count == 3 and dtype == "uint8" else "MINISBLACK",
        "alpha": "NO",
    }
    if grid.georeferenced:
        profile |= {"crs": grid.crs, "transform": rasterio.Affine(*grid.transform)}
    return profile


def tags_of(uri: str) -> dict[str, str]:
    """Tags of a GeoTIFF; empty if the file is none.

    Args:
        uri: local path or s3:// URI.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the store does not answer.
    """
    if not store.exists(uri):
        raise FileNotFoundError(uri)
    with gdal_env.environment(uri=uri), warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        try:
            with rasterio.open(store.gdal_path(uri), driver="GTiff") as dataset:
                found: dict[str, str] = dataset.tags()
                return found
        except gdal_env.READ_ERRORS:
            return {}


def remove_debris(folder: Path) -> None:
    """Remove what writers left in a local folder whose processes of this machine are gone."""
    for left in folder.glob(f"{_WRITING}{socket.gethostname()}-*"):
        pid = left.name.removeprefix(f"{_WRITING}{socket.gethostname()}-").partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists() and Path("/proc").is_dir():
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _writing(uri: str) -> Iterator[None]:
    with gdal_env.environment():
        try:
            yield
        except gdal_env.WRITE_ERRORS as error:
            hint = "check that the place exists, is writable and has free space"
            raise StorageError(f"{uri}: cannot be written ({gdal_env.reason(error)})", hint) from error


class Writer:
    """Writes a GeoTIFF strip by strip; it appears at once, cloud-optimised, when all rows are there.

    Args:
        path: local path or s3:// URI.
        grid: size, CRS and transform.
        count: number of bands.
        dtype: data type of the pixels.
        nodata: value declared as nodata.
        names: of the bands if there are `count` of them, otherwise of the classes in the first band.
        colors: red, green, blue (0..255) of the classes, as a colour table.
        tags: of the file.
        overwrite: replace an existing file.

    Raises:
        OutputExists: the file exists and `overwrite` is False.
        StorageError: it cannot be written.
    """

    def __init__(  # noqa: PLR0913 - everything that a file says
        self,
        path: str | Path,
        grid: Grid,
        *,
        count: int = 1,
        dtype: str = "uint8",
        nodata: float | None = None,
        names: Sequence[str] | None = None,
        colors: Sequence[tuple[int, int, int]] | None = None,
        tags: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.uri = str(path)
        if not overwrite and store.exists(self.uri):
            raise OutputExists(f"{self.uri} exists", "choose another place, or overwrite it")
        self._grid, self._names, self._colors = grid, list(names or ()), list(colors or ())
        self._tags = dict(tags or {})
        self._profile = _profile(grid, count, dtype, nodata)
        self._pending = np.empty((count, 0, grid.width), dtype)
        self._written = 0
        self._folder: Path | None = None

    def __enter__(self) -> Writer:
        parent = None
        with _writing(self.uri):
            if store.is_local(self.uri):
                parent = Path(self.uri.removeprefix("file://")).parent
                parent.mkdir(parents=True, exist_ok=True)
                remove_debris(parent)
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_WRITING}{socket.gethostname()}-{os.getpid()}-", dir=parent))
            try:
                self._dataset = rasterio.open(self._folder / "strips.tif", "w", **self._profile)
                self._describe()
            except BaseException:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
        return self

    def write(self, row: int, array: NDArray[Any]) -> None:
        """Append full rows [count, h, W], beginning at `row`, which must be the next one."""
        expected = self._written + self._pending.shape[1]
        end = row + array.shape[1]
        if row != expected or end > self._grid.height:
            raise ValueError(f"{self.uri}: rows {row} to {end} came where {expected} to {self._grid.height} were due")
        self._pending = np.concatenate([self._pending, array], axis=1, dtype=self._pending.dtype, casting="safe")
        # Only whole blocks are handed on: GDAL would write a part of a block, read it again and write it once more.
        whole = self._pending.shape[1]
        if end < self._grid.height:
            whole -= whole % _BLOCK
        if whole:
            with _writing(self.uri):
                area = GdalWindow(0, self._written, self._grid.width, whole)
                self._dataset.write(self._pending[:, :whole], window=area)
            self._pending = self._pending[:, whole:]
            self._written += whole

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._folder is not None
        try:
            if kind is None:
                with _writing(self.uri):
                    self._dataset.close()
                    self._finish(self._folder)
            else:
                with suppress(StorageError), _writing(self.uri):  # what went wrong first is what matters
                    self._dataset.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self, folder: Path) -> None:
        if self._written != self._grid.height:
            raise ValueError(f"{self.uri}: {self._written} of {self._grid.height} rows were written")
        options = {"compress": "DEFLATE", "blocksize": _BLOCK, "bigtiff": "IF_SAFER", "overview_resampling": "NEAREST"}
        rasterio.shutil.copy(folder / "strips.tif", folder / "cog.tif", driver="COG", **options)
        if store.is_local(self.uri):
            (folder / "cog.tif").replace(self.uri.removeprefix("file://"))
        else:
            store.upload_file(folder / "cog.tif", self.uri)

    def _describe(self) -> None:
        self._dataset.update_tags(**self._tags)
        if len(self._names) == self._dataset.count:
            for band, name in enumerate(self._names, 1):
                self._dataset.set_band_description(band, name)
        else:
            self._dataset.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(self._names)})
        if self._colors:
            self._dataset.write_colormap(1, {i: (*color, 255) for i, color in enumerate(self._colors)})
