"""The layers, proved: who may import whom, where platforms live, what is exported, what errors survive."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

import pipeline
from pipeline import errors, recipe

ROOT = Path(pipeline.__file__).parent
LAYERS = [
    ["errors", "old_names"],
    ["config"],
    ["recipe"],
    ["uris", "text", "redaction"],
    ["world", "store"],
    ["log"],
    # windows, grids and the interface of a reader; formats implement it; the rest of the package uses the formats
    [
        "data.rasters.windows",
        "data.rasters.valid_pixels",
        "data.rasters.horizontal_crs",
        "data.rasters.gdal_env",
        "data.rasters.grids",
    ],
    ["data.rasters.raster_reader", "data.rasters.dtypes", "data.rasters.band_names", "data.rasters.tile_cache"],
    ["data.rasters.resampling", "data.rasters.remote_reader"],
    ["data.rasters.formats"],
    ["data.rasters"],
    ["data.scenes.scene", "data.scenes.geojson_footprints"],
    ["data.labels"],
    ["data.parallel"],
    ["data.scenes.csv_tables"],
    ["data.scenes.splits"],
    ["data.scenes"],
    [f"data.chips.statistics.{name}" for name in ("quantile_sketch", "moments", "per_scene", "normalise")],
    ["data.chips.raw_chip"],
    ["data.chips.statistics"],
    ["data.chips.sampling"],
    ["data.chips.augmentation"],
    ["data.chips"],
    ["data.feed.shards"],
    ["data.feed"],
    ["data.doctor"],
    ["data"],
    ["metrics"],
    ["model.norms", "model.outputs", "model.tracing", "model.input_normalisation", "model.weights_io"],
    ["model.encoders"],
    ["model.decoders", "model.heads"],
    ["model.losses"],
    ["model.smp.encoder_names", "model.smp.encoder_taps", "model.smp.smp_encoder"],
    ["model.networks"],
    ["model.optimise"],
    ["model.bundle"],
    ["model.smp"],
    ["model"],
    ["registry"],
    ["prediction"],
    ["train"],
    ["evaluation"],
    ["release"],
    ["tune"],
    ["on_ray"],  # submits a verb as a job
    ["cli"],
    ["__init__", "__main__"],
    ["registry.pyfunc"],  # imports public names only, since MLflow keeps copies of it
]
"""What stands further down may import what stands further up; the longest name that fits a module counts."""
RANK = {name: number for number, layer in enumerate(LAYERS) for name in layer}

HOMES = {
    "ray": {"*.on_ray"},
    "mlflow": {"registry", "*.on_mlflow"},
    "rasterio": {
        "data.rasters.formats",
        *(f"data.rasters.{name}" for name in ("gdal_env", "grids", "horizontal_crs", "raster_writer")),
        *(f"data.labels.{name}" for name in ("palettes", "rasterize")),
    },
    "pyogrio": {"data.labels"},
    "shapely": {"data.labels", "data.scenes.splits"},
    "tifffile": {"data.rasters.formats"},
    "imagecodecs": {"data.rasters.formats"},
    "nibabel": {"data.rasters.formats"},
    "pydicom": {"data.rasters.formats"},
    "pyfive": {"data.rasters.formats"},
    "zarr": {"data.rasters.formats"},
    "fsspec": {"store"},
    "s3fs": {"store"},
    "albumentations": {"data.chips.augmentation"},
    "timm": {"model.encoders", "model.smp"},
    "optuna": {"tune"},
}
"""Library -> the packages and files that may import it."""


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of everything imported anywhere in the file, functions included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    """Name without `pipeline.`; of a package the package's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def above(name: str) -> Iterator[str]:
    """The module and the packages that it is in, the innermost first."""
    parts = name.split(".")
    yield from (".".join(parts[:n]) for n in range(len(parts), 0, -1))


def rank(module: str) -> int:
    return next(RANK[name] for name in above(module) if name in RANK)


def imported(source: str) -> set[str]:
    """Modules of this program that a file imports; of names in a module the module."""
    found = set()
    for name in imports(ast.parse(source)):
        if name.startswith("pipeline."):
            found.add(next((m for m in above(name.removeprefix("pipeline.")) if m in FILES), "__init__"))
    return found


def at_home(module: str, homes: set[str]) -> bool:
    patterns = {f"*.{module.rpartition('.')[2]}", f"*.{module}", *above(module)}
    return bool(patterns & homes)


def faults(module: str, source: str) -> list[str]:
    """What a file imports that it must not."""
    out = []
    for name in imports(ast.parse(source)):
        top = name.split(".")[0]
        if top in HOMES and not at_home(module, HOMES[top]):
            out.append(f"{module} imports {top}, which only {sorted(HOMES[top])} may")
        if top == "jobs":
            out.append(f"{module} imports jobs")
    # A package's own file imports what is in the package, to offer it.
    inside = f"{module}." if FILES.get(module, ROOT).name == "__init__.py" else None
    for name in imported(source):
        if rank(name) > rank(module) and not (inside and name.startswith(inside)):
            out.append(f"{module} imports {name}, which is in a later layer")
    return out


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way_and_platforms_stay_at_home(module):
    if module == "__init__":
        return  # it offers everything, lazily
    assert faults(module, FILES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data.rasters.windows", "import ray\n"),
        ("data.rasters.windows", "def f():\n    from mlflow import MlflowClient\n"),
        ("config", "from pipeline.data.rasters import windows\n"),
        ("model.networks", "from pipeline.train.loop import train\n"),
        ("data.rasters.grids", "from pipeline.data.rasters import raster_io\n"),
        ("data.rasters.raster_io", "from pipeline.data.labels.classes import IGNORE\n"),
        ("data.labels.masks", "def f():\n    from pipeline.data.scenes.manifest import Manifest\n"),
        ("data.scenes.index", "from pipeline.data.chips.raw_chip import read\n"),
        ("data.chips.raw_chip", "from pipeline.data.feed.plan import Plan\n"),
        ("data.feed.plan", "import pipeline.data.doctor.access\n"),
        ("model.bundle", "from pipeline.registry import versions\n"),
        ("registry.versions", "from pipeline.prediction import blend\n"),
        ("train.fit", "from pipeline.evaluation.evaluate import evaluate\n"),
        ("evaluation.evaluate", "from pipeline.release.promote import promote\n"),
        ("release.promote", "from pipeline.tune import search\n"),
        ("data.scenes.index", "import rasterio\n"),
    ],
)
def test_planted_faults_are_seen(module, source):
    assert module in FILES
    assert faults(module, source)
    assert not faults(module, "from pipeline.errors import PipelineError\n")


def test_every_package_has_a_layer():
    packages = {module for module, path in FILES.items() if path.name == "__init__.py" and module != "__init__"}
    assert packages - set(RANK) == set()
    assert {name for name in RANK if name not in FILES} == set(), "layers of modules that are gone"


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; [] if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports():
    """Imports inside functions included."""
    graph = {module: imported(path.read_text()) - {module} for module, path in FILES.items() if module != "__init__"}
    assert cycle(graph) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


def test_the_data_package_has_no_files_of_its_own():
    assert [path.name for path in (ROOT / "data").glob("*.py")] == ["__init__.py"]


SAME_FILE_NAMES = {"on_ray", "on_mlflow", "errors", "networks"}
"""Platforms, the errors of stores, and the sections of a recipe that describe networks."""


def test_names_mean_one_thing():
    """A section of a recipe may have the name of what it describes."""
    files: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for module, path in FILES.items():
        if path.name != "__init__.py":
            files.setdefault(path.stem, []).append(module)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not module.startswith("recipe"):
                classes.setdefault(node.name, []).append(module)
    assert {name: found for name, found in files.items() if len(found) > 1 and name not in SAME_FILE_NAMES} == {}
    assert {name: found for name, found in classes.items() if len(found) > 1} == {}


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sorted(sys.modules)))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_pipeline_is_light():
    heavy = {"torch", "ray", "mlflow", "rasterio", "pydantic", "numpy", "albumentations"}
    assert not heavy & modules_after("import pipeline")


def test_recipes_are_read_without_torch():
    assert not {"torch", "ray", "mlflow", "rasterio"} & modules_after("import pipeline; pipeline.load; pipeline.Recipe")


def test_networks_and_loop_need_no_platform():
    names = ("metrics", "model.networks", "model.losses", "prediction.blend", "model.bundle", "train.loop")
    loaded = modules_after("; ".join(f"import pipeline.{n}" for n in names))
    assert "torch" in loaded
    assert not {"ray", "mlflow", "rasterio", "albumentations", "pyarrow"} & loaded


def test_every_exported_name_is_there():
    assert pipeline.__all__ == sorted(pipeline.__all__)
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None, name
    with pytest.raises(AttributeError, match="it exports"):
        _ = pipeline.trian
    for package in ("data", "model", "train", "tune"):
        assert inspect.ismodule(importlib.import_module(f"pipeline.{package}")), "a verb hides a package"


ERRORS = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.PipelineError)]


@pytest.mark.parametrize("cls", ERRORS, ids=lambda c: c.__name__)
def test_errors_survive_pickling(cls):
    error = pickle.loads(pickle.dumps(cls("what happened", "what to do")))
    assert (type(error), error.message, error.hint) == (cls, "what happened", "what to do")
    assert str(error) == "what happened\n  -> what to do"
    assert error.exit_code in {1, 2, 3, 4, 5, 75}


def test_the_tree_in_the_docstring_is_the_tree():
    for cls in ERRORS:
        assert cls.__name__ in errors.__doc__
        if cls is not errors.PipelineError:
            line = next(text for text in errors.__doc__.splitlines() if f" {cls.__name__} " in text + " ")
            assert line.split()[-1] == str(cls.exit_code) or f" {cls.exit_code} " in line


def tags(annotation) -> set[str]:
    """Values of `kind` over a union of sections (or of one section)."""
    members = [a for a in get_args(annotation) if isinstance(a, type)] or [annotation]
    members = [m for a in members for m in ([a] if hasattr(a, "model_fields") else tags(a))]
    return {tag for m in members for tag in get_args(m.model_fields["kind"].annotation)}


def test_recipe_tags_are_the_keys_of_the_dicts():
    from pipeline.model.losses import LOSSES
    from pipeline.model.networks import NETWORKS

    assert tags(recipe.Recipe.model_fields["model"].annotation) == set(NETWORKS)
    assert {t for m in get_args(get_args(recipe.LossTerm)[0]) for t in tags(m)} == set(LOSSES)
