"""A scene: one area seen once. The record imports nothing but the grid, so that labels and chips can import it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data.rasters.grids import Grid
from pipeline.data.scenes.geojson_footprints import is_outline
from pipeline.uris import FILE_SEPARATOR


@dataclass(frozen=True)
class SceneFiles:
    """Files of one scene, not opened yet."""

    id: str
    image: str
    label: str | None
    aoi: str | None = None
    footprint: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        others = [f for f in (self.label, self.aoi, self.footprint) if f is not None and not is_outline(f)]
        return (*self.image.split(FILE_SEPARATOR), *others)


@dataclass(frozen=True)
class Scene:
    """One area seen once: an image and usually a label on the same grid.

    Attributes:
        id: unique.
        image: URI; of bands in files of their own, their URIs with line feeds between.
        label: URI of a raster or vector file; None without.
        split, group: where it belongs.
        height, width, crs, transform: its grid.
        stamp: identifies the content whatever the files' dates.
        class_counts: labelled pixels per class, () without a label.
        slices: of a volume, 1 otherwise.
        origin: row and column in the file of the scene's first pixel, where a file was cut into several scenes.
        aoi: URI of a vector file, outside whose shapes nothing is annotated.
        footprint: URI of a vector or raster file, or an outline, outside which the image is not valid.
        seen: size and date (or ETag) of its files when they were looked at.
        bands: numbers from 1 of the bands that are read, in the manifest's order, where these are not all in the order
            of the file.
    """

    id: str
    image: str
    label: str | None
    split: str
    group: str
    height: int
    width: int
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    stamp: str
    class_counts: tuple[int, ...] = ()
    slices: int = 1
    origin: tuple[int, int] = (0, 0)
    aoi: str | None = None
    footprint: str | None = None
    seen: str = ""
    bands: tuple[int, ...] = ()

    @property
    def grid(self) -> Grid:
        """Size, CRS and transform."""
        return Grid(self.height, self.width, self.crs, self.transform)
