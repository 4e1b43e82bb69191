"""The plan of the house, proved: who may import whom, where platforms live, what is exported, what errors survive."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import pipeline
from pipeline import errors, recipe

ROOT = Path(pipeline.__file__).parent
LAYERS = [
    ["errors"],
    ["config"],
    ["recipe"],
    ["uris", "redaction"],
    ["command", "log", "store", "world"],
    ["data"],
    ["metrics"],
    ["model"],
    ["train"],
    ["tune"],
    ["on_ray"],  # submits a verb as a job
    ["__init__", "__main__"],
]
RANK = {name: number for number, layer in enumerate(LAYERS) for name in layer}

# library -> the files that may import it
HOMES = {
    "ray": {"on_ray.py"},
    "mlflow": {"on_mlflow.py", "on_mlflow_pyfunc.py", "on_mlflow_server.py"},
    "rasterio": {
        "gdal.py",
        "horizontal_crs.py",
        "raster_writer.py",
        "grids.py",
        "placing.py",
        "palettes.py",
        "burning.py",
    },
    "pyogrio": {"vectors.py"},
    "shapely": {"vectors.py", "shapes.py", "placing.py", "burning.py", "footprints.py", "repair.py"},
    "tifffile": {"slides.py", "slide_pages.py"},
    "imagecodecs": {"slides.py", "slide_pages.py", "dicom_header.py"},
    "nibabel": {"medical.py"},
    "pydicom": {"dicom.py", "dicom_header.py"},
    "pyfive": {"hdf5.py"},
    "zarr": {"zarr.py"},
    "fsspec": {"s3.py", "web.py", "files.py"},
    "s3fs": {"s3.py"},
    "albumentations": {"transforms.py"},
    "timm": {"encoder.py", "plan.py", "smp.py", "smp_taps.py"},
    "optuna": {"on_ray.py", "space.py"},
}


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


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def faults(path: Path, source: str) -> list[str]:
    """What a file imports that it must not."""
    out = []
    for name in imports(ast.parse(source)):
        top, *rest = name.split(".")
        if top in HOMES and path.name not in HOMES[top]:
            out.append(f"{path.name} imports {top}, whose home is {sorted(HOMES[top])}")
        if top == "pipeline" and rest and rest[0] in RANK and RANK[rest[0]] > RANK[room(path)]:
            out.append(f"{path.name} imports {name}, which lies to its right")
        if top == "jobs":
            out.append(f"{path.name} imports jobs")
    return out


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way_and_platforms_stay_at_home(path):
    if path == ROOT / "__main__.py":
        return  # the command line reaches everything; the line below proves that faults() sees faults
    assert faults(path, path.read_text()) == []


def test_planted_faults_are_seen():
    assert faults(ROOT / "data" / "windows.py", "import ray\n")
    assert faults(ROOT / "data" / "windows.py", "def f():\n    from mlflow import MlflowClient\n")
    assert faults(ROOT / "config.py", "from pipeline.data import windows\n")
    assert faults(ROOT / "model" / "networks.py", "from pipeline.train.loop import train\n")
    assert not faults(ROOT / "train" / "loop.py", "from pipeline.model.losses import Loss\n")


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sorted(sys.modules)))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_pipeline_is_light():
    heavy = {"torch", "ray", "mlflow", "rasterio", "pydantic", "numpy", "albumentations"}
    assert not heavy & modules_after("import pipeline")


def test_recipes_are_read_without_torch():
    assert not {"torch", "ray", "mlflow", "rasterio"} & modules_after("import pipeline; pipeline.load; pipeline.Recipe")


def test_networks_and_loop_need_no_platform():
    names = ("metrics", "model.networks", "model.losses", "model.blend", "model.bundle", "train.loop")
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
