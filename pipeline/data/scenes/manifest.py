"""The manifest: one row per scene. Its digest is the version of the data."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store, uris
from pipeline.data.labels.classes import Classes
from pipeline.data.rasters import grids
from pipeline.data.scenes.geojson_footprints import is_outline
from pipeline.data.scenes.scene import FILE_FIELDS, Scene
from pipeline.data.scenes.splits.assign import SPLITS
from pipeline.errors import ManifestError, PipelineError
from pipeline.redaction import redacted_tree
from pipeline.uris import FILE_SEPARATOR

MANIFEST_VERSION: Final = 4
_WHOLE_ROWS: Final = 4
"""From this version on, the digest covers all that a row says."""
_METADATA_KEY: Final = b"segpipe"
_TYPES: Final = {
    str: pa.string(),
    str | None: pa.string(),
    int: pa.int64(),
    tuple[int, ...]: pa.list_(pa.int64()),
    tuple[int, int]: pa.list_(pa.int64()),
    tuple[float, float, float, float, float, float]: pa.list_(pa.float64()),
}
_HINTS: Final = get_type_hints(Scene)
_SCHEMA: Final = pa.schema({f.name: _TYPES[_HINTS[f.name]] for f in fields(Scene)})
_DIGEST_FIELDS: Final = (
    *("id", "image", "label", "split", "group", "height", "width", "crs", "transform", "stamp", "class_counts"),
    *("slices", "origin", "aoi", "footprint", "bands"),
)
"""In the order in which the digest covers them; fields that came later follow by name, where they have a value."""


@dataclass(frozen=True)
class Manifest:
    """All scenes, sorted by id, and what they have in common.

    Attributes:
        scenes: what can be used.
        bands, dtype, classes: of all of them.
        data: the data section it was made with.
        digest: 64 hex digits, the version of the data. Neither the folder nor the files' dates are in it.
        quarantined: id and reason of the scenes that were found and left out.
        file_bands: what the files call the bands; () where they differ in that, and in manifests of older versions.
        file_nodata: the nodata value that every image declares; None where they do not, or that is not known.
        version: which rule the digest follows.
    """

    scenes: tuple[Scene, ...]
    bands: tuple[str, ...]
    dtype: str
    classes: Classes
    data: dict[str, Any]
    digest: str
    quarantined: tuple[tuple[str, str], ...] = ()
    file_bands: tuple[str, ...] = ()
    file_nodata: float | None = None
    version: int = MANIFEST_VERSION

    @classmethod
    def of(
        cls,
        rows: Iterable[Scene],
        bands: Iterable[str],
        dtype: str,
        classes: Classes,
        data: dict[str, Any],
        quarantined: Iterable[tuple[str, str]] = (),
        version: int = MANIFEST_VERSION,
    ) -> Manifest:
        """Sort the scenes and compute the digest, by the rule of a version."""
        ordered = tuple(sorted(rows, key=lambda s: s.id))
        names = tuple(bands)
        entry = _entry if version >= _WHOLE_ROWS else _entry_of_old
        content = [entry(scene, data["root"]) for scene in ordered]
        tree = [content, names, dtype, classes.to_json(), data["nodata"]]
        digest = hashlib.sha256(json.dumps(tree, separators=(",", ":")).encode()).hexdigest()
        return cls(ordered, names, dtype, classes, data, digest, tuple(quarantined), version=version)

    def split(self, name: str) -> tuple[Scene, ...]:
        """The scenes of a split.

        Raises:
            ManifestError: there are none.
        """
        chosen = tuple(s for s in self.scenes if s.split == name)
        if not chosen:
            counts = Counter(s.split for s in self.scenes)
            there = ", ".join(f"{split} ({counts[split]} scenes)" for split in SPLITS if counts[split])
            raise ManifestError(
                f"the split {name!r} is empty; there are {there}", "change data.split and run `segpipe index` again"
            )
        return chosen

    def pixel_size(self, split: str) -> tuple[float, float, str] | None:
        """Smallest and largest side of a pixel among the scenes of a split, and their unit; None if they have none."""
        found = [grids.pixel_size(s.grid) for s in self.scenes if s.split == split]
        units = {size and size[1] for size in found}
        if len(units) != 1 or None in units:
            return None
        sides = [size[0] for size in found if size is not None]
        return min(sides), max(sides), str(units.pop())

    def write(self, uri: str) -> None:
        """Write as Parquet; paths under `data.root` are relative to it."""
        root = self.data["root"]
        rows = [asdict(s) | _relative_uris(s, root) for s in self.scenes]
        metadata = {
            "version": self.version,
            "digest": self.digest,
            "bands": self.bands,
            "dtype": self.dtype,
            "classes": self.classes.to_json(),
            "data": redacted_tree(self.data),
            "quarantined": self.quarantined,
            "file_bands": self.file_bands,
            "file_nodata": self.file_nodata,
        }
        schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
        store.write_bytes(uri, sink.getvalue())

    @classmethod
    def read(cls, uri: str, *, root: str | None = None) -> Manifest:
        """Read a manifest; `root` says where the scenes are now, if they were moved.

        Raises:
            ManifestError: there is none, it is damaged, or newer than this program.
        """
        table, metadata = _read_table(uri)
        try:
            return cls._of_table(uri, table, metadata, root)
        except PipelineError:
            raise
        except store.NOT_AS_WRITTEN as error:
            raise ManifestError(f"{uri} is damaged ({error!r:.300})", "run `segpipe index` again") from error

    @classmethod
    def _of_table(cls, uri: str, table: pa.Table, metadata: dict[str, Any], root: str | None) -> Manifest:
        if metadata["version"] > MANIFEST_VERSION:
            raise ManifestError(
                f"{uri} is of version {metadata['version']}; this program reads up to {MANIFEST_VERSION}",
                "use a newer segpipe, or run `segpipe index` again",
            )
        data = metadata["data"] | ({} if root is None else {"root": root})
        base = uris.absolute(data["root"])
        manifest = cls.of(
            (_from_row(row, base) for row in table.to_pylist()),
            metadata["bands"],
            metadata["dtype"],
            Classes.from_json(metadata["classes"]),
            data,
            ((i, reason) for i, reason in metadata.get("quarantined", ())),
            metadata["version"],
        )
        if manifest.digest != metadata["digest"]:
            raise ManifestError(f"{uri}: the content does not have the digest it names", "run `segpipe index` again")
        file_bands = tuple(metadata.get("file_bands", ()))
        return replace(manifest, file_bands=file_bands, file_nodata=metadata.get("file_nodata"))

    def summary(self) -> dict[str, Any]:
        """Counts by split and class, as plain JSON."""
        sizes = sorted((s.height * s.width, s.height, s.width) for s in self.scenes)
        return {
            "digest": self.digest,
            "scenes": len(self.scenes),
            "splits": {name: _split_summary([s for s in self.scenes if s.split == name]) for name in SPLITS},
            "bands": list(self.bands),
            "dtype": self.dtype,
            "smallest": list(sizes[0][1:]),
            "largest": list(sizes[-1][1:]),
            "quarantined": dict(self.quarantined) or None,
            "classes": {n: {"pixels": p, "share": s} for n, p, s in self.shares()},
        }

    def shares(self) -> list[tuple[str, int, float]]:
        """Name, labelled pixels and share of every class."""
        pixels = [sum(s.class_counts[k] for s in self.scenes if s.class_counts) for k in range(len(self.classes))]
        total = max(1, sum(pixels))
        return [(name, count, count / total) for name, count in zip(self.classes.names, pixels, strict=True)]


def _entry(scene: Scene, root: str) -> dict[str, Any]:
    """The fields of a scene that the digest covers: all but the folder it is in and the dates of its files."""
    row = asdict(scene) | _relative_uris(scene, root)
    later = sorted(key for key, value in row.items() if key not in _DIGEST_FIELDS and value and key != "seen")
    return {key: row[key] for key in (*_DIGEST_FIELDS, *later)}


def _entry_of_old(scene: Scene, root: str) -> list[Any]:
    """The fields that the digest covered up to version 3."""
    paths = _relative_uris(scene, root)
    row: list[Any] = [scene.id, paths["image"], paths["label"], scene.stamp, scene.split, scene.group]
    if _is_special(scene):
        row += [scene.slices, scene.origin, scene.height, scene.width, paths["aoi"]]
    return row if scene.footprint is None else [*row, paths["footprint"]]


def _split_summary(chosen: Sequence[Scene]) -> dict[str, int]:
    return {
        "scenes": len(chosen),
        "groups": len({s.group for s in chosen}),
        "pixels": sum(s.height * s.width for s in chosen),
    }


def _relative_uris(scene: Scene, root: str) -> dict[str, str | None]:
    return {key: uri and _relative(uri, root) for key, uri in scene.uris().items()}


def _relative(uri: str, root: str) -> str:
    base = uris.absolute(root).rstrip("/") + "/"
    return (
        uri if is_outline(uri) else FILE_SEPARATOR.join(part.removeprefix(base) for part in uri.split(FILE_SEPARATOR))
    )


def _is_special(scene: Scene) -> bool:
    """Whether it is more than one plain raster."""
    return scene.slices != 1 or scene.origin != (0, 0) or scene.aoi is not None


def _from_row(row: dict[str, Any], base: str) -> Scene:
    paths = {key: uri and _absolute(uri, base) for key in FILE_FIELDS for uri in [row.get(key)]}
    numbers = {key: tuple(row[key]) for key in ("transform", "class_counts", "origin", "bands") if key in row}
    return Scene(**row | paths | numbers)


def _absolute(uri: str, base: str) -> str:
    return uri if is_outline(uri) else FILE_SEPARATOR.join(store.join(base, part) for part in uri.split(FILE_SEPARATOR))


def _read_table(uri: str) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.read_table(io.BytesIO(store.read_bytes(uri)))
        return table, json.loads(table.schema.metadata[_METADATA_KEY])
    except FileNotFoundError:
        raise ManifestError(f"there is no manifest at {uri}", "run `segpipe index`") from None
    except (pa.ArrowException, OSError, *store.NOT_AS_WRITTEN) as error:
        raise ManifestError(f"{uri} is no manifest, or damaged ({error})", "run `segpipe index` again") from error
