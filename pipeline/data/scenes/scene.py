"""A scene: one area seen once. The records import nothing but the grid, so that labels and chips can import them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pipeline.data.rasters.grids import Grid, RasterInfo
from pipeline.data.scenes.geojson_footprints import is_outline
from pipeline.uris import FILE_SEPARATOR


@dataclass(frozen=True)
class SceneFiles:
    """The files of one scene, which need not have been opened.

    A further optional file of scenes is one more field here: discovery fills it, the manifest stores it.

    Attributes:
        id: unique.
        image: URI; of bands in files of their own, their URIs with line feeds between.
        label: URI of a raster or vector file; None without.
        aoi: URI of a vector file, outside whose shapes nothing is annotated.
        footprint: URI of a vector or raster file, or GeoJSON text, outside which the image is not valid.
    """

    id: str
    image: str
    label: str | None
    aoi: str | None = field(default=None, kw_only=True)
    footprint: str | None = field(default=None, kw_only=True)

    @property
    def files(self) -> tuple[str, ...]:
        """URIs of all files: of the image, then those of the other fields that name one."""
        others = (uri for key, uri in self.uris().items() if key != "image" and uri is not None and not is_outline(uri))
        return (*self.image.split(FILE_SEPARATOR), *others)

    def uris(self) -> dict[str, Any]:
        """Values of the fields that name files, by name."""
        return {name: getattr(self, name) for name in FILE_FIELDS}


FILE_FIELDS = tuple(f.name for f in fields(SceneFiles) if f.name != "id")


@dataclass(frozen=True)
class Scene(SceneFiles):
    """One area seen once: an image and usually a label on the same grid.

    Attributes:
        split, group: where the scene belongs.
        height, width, crs, transform: its grid.
        stamp: identifies the content whatever the files' dates.
        class_counts: labelled pixels per class, () without a label.
        slices: number of slices of a volume, 1 otherwise.
        origin: row and column in the file of the scene's first pixel, where a file was cut into several scenes.
        seen: size and date (or ETag) of its files when they were inspected.
        bands: numbers from 1 of the bands that are read, in the manifest's order, where these are not all in the order
            of the file.
    """

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
    seen: str = ""
    bands: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, files: SceneFiles, info: RasterInfo, *, origin: tuple[int, int], size: tuple[int, int], **more: Any
    ) -> Scene:
        """The scene that a part of an image, or all of it, is.

        Args:
            files: of the image.
            info: header of the image.
            origin: row and column of the part in the file.
            size: height and width of the part.
            more: other fields; `split`, `group` and `stamp` are empty by default.
        """
        grid = info.grid.part(*origin, *size)
        known = asdict(files) if type(files) is SceneFiles else {"id": files.id, **files.uris()}
        place = {"height": grid.height, "width": grid.width, "crs": grid.crs, "transform": grid.transform}
        return cls(
            **{**known, **place, "split": "", "group": "", "stamp": "", "slices": info.slices, "origin": origin, **more}
        )

    @property
    def grid(self) -> Grid:
        """Size, CRS and transform."""
        return Grid(self.height, self.width, self.crs, self.transform)
