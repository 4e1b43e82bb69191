"""The manifest: one row per scene. Its digest is the version of the data."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.data import inspection, scenes, splits
from pipeline.data.classes import Classes
from pipeline.data.grids import RasterInfo
from pipeline.data.inspection import Look
from pipeline.data.scenes import Found, Scene
from pipeline.data.splits import SPLITS
from pipeline.errors import DataError, ManifestError
from pipeline.log import Advance
from pipeline.recipe import Recipe

logger = logging.getLogger(__name__)

MANIFEST_VERSION: Final = 1

# Changing these does not change what the manifest says.
_NOT_INDEXED: Final = ("root", "augment", "sampling", "statistics_pixels")
_POINTER: Final = "manifest.json"
_METADATA_KEY: Final = b"segpipe"
_SCHEMA: Final = pa.schema(
    {
        "id": pa.string(),
        "image": pa.string(),
        "label": pa.string(),
        "split": pa.string(),
        "group": pa.string(),
        "height": pa.int64(),
        "width": pa.int64(),
        "crs": pa.string(),
        "transform": pa.list_(pa.float64()),
        "stamp": pa.string(),
        "class_counts": pa.list_(pa.int64()),
    }
)


def index(recipe: Recipe, *, progress: Advance | None = None) -> Manifest:
    """Look at all scenes and write the manifest to <output>/<name>/manifests/, unless it is there already.

    Headers, the first, middle and last block of every image, and the whole of every label are read.

    Args:
        recipe: its data section says where the scenes are and what their labels mean.
        progress: is called with the number of scenes done and of all scenes.

    Raises:
        ManifestError, SceneError, LabelError: everything that is wrong with the scenes, at once.
    """
    data = recipe.data
    classes = Classes.from_section(data)
    found = scenes.find(data)
    problems: list[DataError] = []
    split_of: dict[str, tuple[str, str]] = {}
    try:
        split_of = splits.assign([f.id for f in found], data)
    except DataError as error:
        problems.append(error)
    looks = inspection.look_at_all(found, classes, progress)
    problems += [problem for f in found for problem in looks[f.id].problems]
    infos = {f.id: info for f in found if (info := looks[f.id].info) is not None}
    problems += inspection.disagreements(infos, data.bands)
    if problems:
        raise inspection.all_of(problems)
    rows = [_scene(f, infos[f.id], looks[f.id], *split_of[f.id]) for f in found]
    first = infos[found[0].id]
    manifest = Manifest.of(rows, data.bands or first.bands, first.dtype, classes, data.model_dump(mode="json"))
    _publish(recipe, manifest)
    _tell(recipe, manifest)
    return manifest


def current(recipe: Recipe) -> Manifest:
    """The manifest of the last `index`; made now if there is none.

    Raises:
        ManifestError: the recipe describes other data than were indexed.
    """
    pointer = store.join(_home(recipe), _POINTER)
    try:
        entry = store.read_json(pointer)
    except FileNotFoundError:
        logger.info("no manifest yet: indexing %s", recipe.data.root)
        return index(recipe)
    data = recipe.data.model_dump(mode="json")
    then, now = _indexed(entry["data"]), _indexed(data)
    changed = sorted(key for key in then | now if then.get(key) != now.get(key))
    if changed:
        raise ManifestError(
            f"the manifest in {pointer} was made with other values of {', '.join('data.' + key for key in changed)}",
            "run `segpipe index` again",
        )
    manifest = Manifest.read(store.join(_home(recipe), entry["path"]), root=recipe.data.root)
    return replace(manifest, data=data)


@dataclass(frozen=True)
class Manifest:
    """All scenes, sorted by id, and what they have in common; `data` is the data section it was made with."""

    scenes: tuple[Scene, ...]
    bands: tuple[str, ...]
    dtype: str
    classes: Classes
    data: dict[str, Any]
    digest: str
    """64 hex digits: the version of the data. Neither the folder nor the files' dates are in it."""

    @classmethod
    def of(
        cls, rows: Iterable[Scene], bands: Iterable[str], dtype: str, classes: Classes, data: dict[str, Any]
    ) -> Manifest:
        """Sort the scenes and compute the digest."""
        ordered = tuple(sorted(rows, key=lambda s: s.id))
        names = tuple(bands)
        root = data["root"]
        content = [
            [s.id, _relative(s.image, root), s.label and _relative(s.label, root), s.stamp, s.split, s.group]
            for s in ordered
        ]
        tree = [content, names, dtype, classes.to_json(), data["nodata"]]
        digest = hashlib.sha256(json.dumps(tree, separators=(",", ":")).encode()).hexdigest()
        return cls(ordered, names, dtype, classes, data, digest)

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

    def write(self, uri: str) -> None:
        """Write as Parquet; paths under `data.root` are relative to it."""
        root = self.data["root"]
        rows = [
            asdict(s) | {"image": _relative(s.image, root), "label": s.label and _relative(s.label, root)}
            for s in self.scenes
        ]
        metadata = {
            "version": MANIFEST_VERSION,
            "digest": self.digest,
            "bands": self.bands,
            "dtype": self.dtype,
            "classes": self.classes.to_json(),
            "data": self.data,
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
        if metadata["version"] > MANIFEST_VERSION:
            raise ManifestError(
                f"{uri} is of version {metadata['version']}; this program reads up to {MANIFEST_VERSION}",
                "use a newer segpipe, or run `segpipe index` again",
            )
        data = metadata["data"] | ({} if root is None else {"root": root})
        base = scenes.absolute(data["root"])
        manifest = cls.of(
            (_from_row(row, base) for row in table.to_pylist()),
            metadata["bands"],
            metadata["dtype"],
            Classes.from_json(metadata["classes"]),
            data,
        )
        if manifest.digest != metadata["digest"]:
            raise ManifestError(f"{uri}: the content does not have the digest it names", "run `segpipe index` again")
        return manifest

    def summary(self) -> dict[str, Any]:
        """What was found, as plain JSON."""
        sizes = sorted((s.height * s.width, s.height, s.width) for s in self.scenes)
        return {
            "digest": self.digest,
            "scenes": len(self.scenes),
            "splits": {name: _split_summary([s for s in self.scenes if s.split == name]) for name in SPLITS},
            "bands": list(self.bands),
            "dtype": self.dtype,
            "smallest": list(sizes[0][1:]),
            "largest": list(sizes[-1][1:]),
            "classes": {n: {"pixels": p, "share": s} for n, p, s in self._shares()},
        }

    def _shares(self) -> list[tuple[str, int, float]]:
        """Name, labelled pixels and share of every class."""
        pixels = [sum(s.class_counts[k] for s in self.scenes if s.class_counts) for k in range(len(self.classes))]
        total = max(1, sum(pixels))
        return [(name, count, count / total) for name, count in zip(self.classes.names, pixels, strict=True)]


def _split_summary(chosen: Sequence[Scene]) -> dict[str, int]:
    return {
        "scenes": len(chosen),
        "groups": len({s.group for s in chosen}),
        "pixels": sum(s.height * s.width for s in chosen),
    }


def _scene(found: Found, info: RasterInfo, look: Look, split: str, group: str) -> Scene:
    grid = info.grid
    return Scene(
        id=found.id,
        image=found.image,
        label=found.label,
        split=split,
        group=group,
        height=grid.height,
        width=grid.width,
        crs=grid.crs,
        transform=grid.transform,
        stamp=look.stamp,
        class_counts=look.class_counts,
    )


def _relative(uri: str, root: str) -> str:
    return uri.removeprefix(scenes.absolute(root).rstrip("/") + "/")


def _from_row(row: dict[str, Any], base: str) -> Scene:
    paths = {key: None if row[key] is None else store.join(base, row[key]) for key in ("image", "label")}
    numbers = {"transform": tuple(row["transform"]), "class_counts": tuple(row["class_counts"])}
    return Scene(**row | paths | numbers)


def _read_table(uri: str) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.read_table(io.BytesIO(store.read_bytes(uri)))
        return table, json.loads(table.schema.metadata[_METADATA_KEY])
    except FileNotFoundError:
        raise ManifestError(f"there is no manifest at {uri}", "run `segpipe index`") from None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{uri} is no manifest, or damaged ({error})", "run `segpipe index` again") from error


def _home(recipe: Recipe) -> str:
    return store.join(recipe.compute.output, recipe.name)


def _indexed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a data section that a manifest depends on."""
    return {key: value for key, value in data.items() if key not in _NOT_INDEXED}


def _publish(recipe: Recipe, manifest: Manifest) -> None:
    """Write the manifest if there is none with this digest, then let the pointer name it."""
    path = f"manifests/{manifest.digest[:12]}.parquet"
    uri = store.join(_home(recipe), path)
    if store.exists(uri):
        logger.info("manifest %s: unchanged", manifest.digest[:12])
    else:
        manifest.write(uri)
        logger.info("manifest %s: written to %s", manifest.digest[:12], uri)
    pointer = {"digest": manifest.digest, "path": path, "data": manifest.data}
    store.write_json(store.join(_home(recipe), _POINTER), pointer)


def _tell(recipe: Recipe, manifest: Manifest) -> None:
    summary = manifest.summary()
    counts = ", ".join(f"{split['scenes']} {name}" for name, split in summary["splits"].items() if split["scenes"])
    shares = ", ".join(f"{name} {share:.1%}" for name, _, share in manifest._shares())
    logger.info("%d scenes (%s) of %d bands %s", len(manifest.scenes), counts, len(manifest.bands), manifest.dtype)
    if manifest.data["labels"] is not None:
        logger.info("labelled pixels: %s", shares)
        for name in (name for name, pixels, _ in manifest._shares() if not pixels):
            logger.warning("no label holds a pixel of class %s: check the values in data.classes", name)
    for name in {"train", recipe.evaluate.split}:
        if not summary["splits"][name]["scenes"]:
            logger.warning("the split %r is empty", name)
