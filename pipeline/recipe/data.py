"""Sections about data: scenes, classes, splits and windows."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from pipeline import config
from pipeline.config import Positive, Section
from pipeline.recipe.labels import ClassSpec, Label, distinct
from pipeline.recipe.pixels import Augment, AutoNormalise, Normalise
from pipeline.recipe.sampling import AnySampling, HashSplit, Split, Uniform

STAC: Final = "stac"
"""As `data.footprint`: the geometry of STAC items."""


class Reading(Section):
    """How to read files, where they do not say it themselves."""

    mpp: Annotated[float, Field(gt=0)] | None = None
    """Slides: micrometres per pixel; the level that comes nearest is read. By default the finest."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """Volumes: the direction that slices are stacked in."""
    hounsfield: tuple[float, float] | None = None
    """CT: lowest and highest value in Hounsfield units; others are set to these."""
    variable: str | tuple[str, ...] | None = None
    """NetCDF and HDF5: the array that is the image, with its groups: `science/image`; of several in a list each is one
    band or more. By default the only one of two dimensions or more, or the one called `image`."""
    label_variable: str | None = None
    """The same for labels; by default the only one, or the one called `label` or `mask`."""
    stack: str | None = None
    """NetCDF: the dimension that slices are stacked in, such as `time`. By default all dimensions besides rows and
    columns are bands."""
    max_pixels: Positive = 600_000_000_000
    """A header that claims more is taken for damaged."""
    bands: Annotated[tuple[str | Positive, ...], Field(min_length=1)] | None = None
    """Of an image's bands these, by name or by number from 1, in this order; others are not read. A name is compared
    exactly first, then without regard to case. By default all bands. Of `data.bands_apart` list the wanted ones."""
    alpha: Literal["mask", "band"] = "mask"
    """What an image's alpha band is: `mask`: pixels where it is 0 are invalid, and it is no band; `band`: a band like
    any other, such as near infrared that a library has tagged as alpha."""
    greys: Literal["shown", "stored"] = "shown"
    """Values of images with a palette of greys, or whose 0 is white: `shown`: what viewers show, so that larger is
    brighter; `stored`: positions in a palette whose greys rise or fall throughout, and values as they are stored, as it
    was before this key existed."""
    nodata_rule: Literal["all", "any"] = "all"
    """When nodata values make a pixel invalid: `all`: where every band holds one, as in GDAL's dataset mask; `any`:
    where one band does. NaN and infinity in any band always do. Before this key existed, the rule was `any`."""

    @field_validator("bands")
    @classmethod
    def _each_once(cls, bands: tuple[str | int, ...] | None) -> tuple[str | int, ...] | None:
        if bands is not None and len(set(bands)) < len(bands):
            raise ValueError(f"a band is listed twice in {list(bands)}")
        return bands


BEFORE: Final = {"nodata_rule": "any", "greys": "stored"}
"""What a `reading` that does not have these keys meant before they existed."""


class Fail(Section):
    """A scene that cannot be read ends the work."""

    kind: Literal["fail"] = "fail"


class Quarantine(Section):
    """Scenes and windows that cannot be read are left out, and named with the reason."""

    kind: Literal["quarantine"] = "quarantine"
    max: Positive = 10
    """More than so many end the work: scenes in `index`, and different windows in a training or an evaluation."""


class Data(Section):
    """Scenes, classes, splits and windows."""

    root: str
    """Folder or s3:// prefix that holds images and labels."""
    images: str | None = None
    """Glob of the images under `root`, such as `images/*.tif`. The file's stem is the scene's id. With a slash at its
    end it finds folders, such as DICOM series or Zarr: `scans/*/`."""
    bands_apart: dict[str, str] | None = None
    """Instead of `images`, where each band is a file: name of the band -> pattern with {id}, such as
    `red: "*/{id}_B04.jp2"`. The first one's grid is the scene's; the others are resampled to it."""
    scenes: str | None = None
    """Instead of `images`, a list of scenes: a CSV or Parquet table with the columns `id`, `image` and optionally
    `label` and `footprint`, whose paths are relative to `root` (of an image in several files with ; between), or a STAC
    item collection."""
    assets: list[str] | None = None
    """Of STAC items, the assets that hold the image's bands; by default the only one with the role `data`."""
    labels: str | None
    """Where an image's label is, with {id} for its stem: `masks/{id}.png`, `{id}_mask.png`, `labels/{id}.geojson`, or
    one vector file for all. `{id:^[a-z]+}` is what a regular expression finds in the stem (its first bracket, if it has
    one), so that scenes of one region share a file: `labels/{id:^[a-z]+}.geojson`. A glob is allowed where the ending
    differs. Files that match it are not taken for images. null: there are none."""
    label: Label = Label()
    """How labels are read."""
    aoi: str | None = None
    """Vector file, for all scenes or with {id} as in `labels`: what lies outside its shapes is not annotated."""
    footprint: str | None = None
    """Where images are valid: a vector file, or a raster on the image's grid whose pixels other than 0 are, for all
    scenes or with {id} as in `labels`; of STAC items `stac`, their own geometry. What lies outside is as nodata."""
    task: Literal["multiclass", "multilabel"] = "multiclass"
    """multilabel: a pixel can be of several classes or none; labels have one band per class."""
    classes: Annotated[list[ClassSpec], Field(min_length=1, max_length=255)]
    """In order of their ids 0..K-1. Background, if there is one, is an ordinary class."""
    ignore_values: list[int | str] = []
    """Label values (also ranges and colours) that mean: not annotated. The label's own nodata value always does."""
    align: Literal["image"] | None = None
    """image: labels on another grid than the image are brought to the image's, nearest neighbour. By default they are
    refused."""
    bands: list[str] | None = None
    """Names of the bands. Files that use these names themselves are read by name, whatever their order and however
    many bands they have; of others this names the bands in file order (or in the order of `reading.bands`). By default
    the files' own descriptions, or band_1, band_2, ..."""
    nodata: float | None = None
    """A nodata value in addition to what the file says (nodata, NaN, mask band, alpha); see `reading.nodata_rule`."""
    reading: Reading = Reading()
    """What files alone do not say."""
    on_error: Annotated[Fail | Quarantine, Field(discriminator="kind")] = Fail()
    """What becomes of scenes and windows that cannot be read: `fail`, `quarantine`, or {kind: quarantine, max: 10}."""
    split: Split = HashSplit()
    """Which scenes train, validate and test."""
    sampling: AnySampling = Uniform()
    """Which windows of the train split are chips."""
    normalise: Normalise = AutoNormalise()
    """What the network does to raw pixels first: `auto`, `mean_std`, `imagenet`, `percentile`, `scale`, `log` or
    `per_scene`, or a mapping with `kind`."""
    augment: list[Augment] = []
    """Applied in this order to the chips of training, keyed by (seed, epoch, number)."""
    statistics_pixels: Positive = 50_000_000
    """Statistics read about this many pixels of the train split, spread evenly; fewer scenes are read whole."""

    @field_validator("augment", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        return [{"transform": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    @field_validator("on_error", "normalise", mode="before")
    @classmethod
    def _bare_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("labels", "aoi", "footprint")
    @classmethod
    def _expressions(cls, pattern: str | None) -> str | None:
        for found in re.findall(r"\{id:((?:[^{}]|\{[0-9,]+\})+)\}", pattern or ""):
            try:
                re.compile(found)
            except re.error as error:
                raise ValueError(f"{found!r} is no regular expression: {error}") from error
        return pattern

    @field_validator("sampling", mode="before")
    @classmethod
    def _uniform(cls, value: Any) -> Any:
        return config.of_kind(value, "uniform")

    @model_validator(mode="after")
    def _distinct(self) -> Data:
        names = [c.name for c in self.classes]
        if len(set(names)) < len(names):
            raise ValueError(f"classes: two have the same name in {names}")
        if len(names) < 2 and self.task == "multiclass":
            raise ValueError("classes: one class alone cannot be distinguished from anything; name the background, too")
        distinct(self.classes, self.ignore_values, named=self.label.attribute is not None)
        return self

    @model_validator(mode="after")
    def _found_in_one_way(self) -> Data:
        ways = [name for name in ("images", "bands_apart", "scenes") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(f"one of images, bands_apart and scenes says where scenes are, not {ways or 'none'}")
        if self.bands_apart is not None and self.reading.bands is not None:
            raise ValueError(
                "reading.bands chooses among the bands of a file; of bands_apart list the wanted ones only"
            )
        for name, pattern in (self.bands_apart or {}).items():
            if "{id}" not in pattern:
                raise ValueError(f"bands_apart.{name}: must contain {{id}}")
        if self.footprint == STAC and self.scenes is None:
            raise ValueError("footprint: stac is the geometry of STAC items, and scenes names none")
        return self
