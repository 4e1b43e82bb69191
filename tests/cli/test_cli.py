"""What a person types, sees and gets as exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.__main__ import main
from tests import factory


@pytest.fixture
def site(tmp_path):
    """A learnable world and a recipe file for it; returns the recipe's path."""
    factory.world(tmp_path / "data", scenes=6, size=64)
    recipe = factory.recipe_for(tmp_path / "data", **{"compute.output": str(tmp_path / "runs"), "train.steps": 4})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.model_dump_json())  # JSON is YAML
    return path


def run(capsys, *words) -> tuple[int, dict]:
    """Exit code and JSON record of a command."""
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_whole_way(site, tmp_path, capsys):
    code, found = run(capsys, "index", site)
    assert code == 0
    assert found["scenes"] == 6

    code, trained = run(capsys, "train", site)
    assert code == 0
    assert trained["step"] == 4
    assert trained["manifest_digest"].startswith(found["digest"][:12])

    code, again = run(capsys, "train", site)
    assert code == 2
    assert again["error"] == "OutputExists"
    assert "--overwrite" in again["hint"]

    code, scored = run(capsys, "evaluate", site, "--model", trained["bundle"])
    assert code == 0
    assert 0 <= scored["scores"]["miou"] <= 1

    code, decision = run(capsys, "promote", site, "--model", trained["bundle"])
    assert code == 0
    assert decision["promoted"] is True

    code, decision = run(capsys, "promote", site, "--model", "models:/tiny@champion")
    assert code == 5
    assert decision["promoted"] is False
    assert decision["reasons"]

    tracking = f"sqlite:///{tmp_path}/runs/mlflow.db"
    words = ["predict", "--model", "models:/tiny@champion", "--tracking-uri", tracking]
    words += ["--images", str(tmp_path / "data/images/s5.tif"), "--out", str(tmp_path / "maps")]
    code, predicted = run(capsys, *words)
    assert code == 0
    assert predicted["rasters"] == [str(tmp_path / "maps" / "s5.tif")]

    code, again = run(capsys, *words)
    assert (code, again["rasters"]) == (0, predicted["rasters"]), "the finished raster is left as it is"
    code, refused = run(capsys, *words, "--window", "32")
    assert (code, refused["error"]) == (2, "OutputExists")
    assert run(capsys, *words, "--window", "32", "--overwrite")[0] == 0


def test_words_for_a_person(site, capsys):
    assert main(["index", str(site)]) == 0
    text = capsys.readouterr().out
    assert "scenes" in text
    assert "digest" in text


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["train.stpes=3"], 2, "train.stpes: unknown key; did you mean 'steps'?"),
        (["compute.num_workers=3"], 2, "8 chips do not divide over compute.num_workers 3"),
        (["data.images=nothing/*.tif"], 3, "nothing/*.tif"),
        (["data.classes=[{name: a, values: [7]}, {name: b, values: [8]}]"], 3, "values without a class"),
        (["data.labels=labels/{id}.tif"], 3, "label"),
        (["data.split.path=none.csv"], 3, "none.csv"),
    ],
)
def test_bad_input_has_its_code_and_message(site, capsys, overrides, code, message):
    overrides = [*overrides, "train.global_batch=8"]
    assert main(["index", str(site), *overrides]) == code
    out = capsys.readouterr()
    assert message in out.err
    assert not out.out


@pytest.mark.parametrize("content", [b"", b"not a raster", None])
def test_a_damaged_raster_is_named(site, tmp_path, capsys, content):
    victim = tmp_path / "data/images/s2.tif"
    victim.write_bytes(victim.read_bytes()[:4000] if content is None else content)
    assert main(["index", str(site)]) == 3
    assert "s2.tif" in capsys.readouterr().err


def test_a_missing_recipe(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_errors_as_json(tmp_path, capsys):
    code, record = run(capsys, "train", tmp_path / "none.yaml")
    assert code == 2
    assert record["error"] == "RecipeError"
    assert record["hint"]


def test_mlflow_down_at_start_stops_before_any_work(site, tmp_path, capsys):
    with socket.socket() as probe:  # a port where nobody listens
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["train", str(site), f"compute.tracking_uri={uri}"]) == 75
    err = capsys.readouterr().err
    assert uri in err
    assert "tracking_required" in err
    assert not list((tmp_path / "runs").rglob("checkpoints"))


def test_training_goes_on_without_mlflow_when_the_recipe_allows_it(site, tmp_path, capsys):
    words = ["compute.tracking_uri=http://127.0.0.1:9", "compute.tracking_required=false"]
    code, trained = run(capsys, "train", site, *words)
    assert code == 0
    assert (tmp_path / trained["bundle"]).joinpath("weights.safetensors").exists()


def test_recipe_show_gives_the_origin_of_each_value(site, capsys):
    code, shown = run(capsys, "recipe", "show", site, "train.steps=7")
    assert code == 0
    assert shown["values"]["train.steps"] == {"value": 7, "origin": "override"}
    assert shown["values"]["name"]["origin"].startswith(f"{site}:")
    main(["recipe", "show", str(site)])
    assert "fingerprint" in capsys.readouterr().out


def test_recipe_schema_is_json_schema_with_documentation(capsys):
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["seed"]["description"]
    assert schema["additionalProperties"] is False


def test_overrides_may_follow_options(site, capsys):
    assert main(["recipe", "show", str(site), "--verbose", "train.steps=9"]) == 0
    assert "train.steps" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["index", str(site), "--josn"])
    assert stopped.value.code == 2


def test_a_machine_without_ray_goes_the_whole_way(site, tmp_path):
    code = f"""
import sys
sys.modules["ray"] = None  # importing it fails from here on
from pipeline.__main__ import main
recipe, model = {str(site)!r}, "models:/tiny@challenger"
assert main(["train", recipe]) == 0
assert main(["evaluate", recipe, "--model", model]) == 0
assert main(["promote", recipe, "--model", model]) == 0
assert main(["predict", "--model", "models:/tiny@champion", "--tracking-uri", "sqlite:///{tmp_path}/runs/mlflow.db",
             "--images", "{tmp_path}/data/images/s5.tif", "--out", "{tmp_path}/maps"]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (tmp_path / "maps/s5.tif").exists()


def test_the_module_and_the_script_are_the_same_program():
    command = [sys.executable, "-m", "pipeline", "--version"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"segpipe {pipeline.__version__}"


@pytest.fixture
def trained(site, capsys):
    """A trained bundle's directory."""
    code, record = run(capsys, "train", site)
    assert code == 0
    return record["bundle"]


def test_image_and_mask_of_another_size_or_grid(site, tmp_path, capsys):
    label = np.zeros((64, 64), np.uint8)
    moved = (*factory.TRANSFORM[:2], factory.TRANSFORM[2] + 5, *factory.TRANSFORM[3:])
    factory.write_raster(tmp_path / "data/masks/s0.tif", label, crs=factory.UTM, transform=moved)
    factory.write_raster(tmp_path / "data/masks/s1.tif", label[:60])
    assert main(["index", str(site)]) == 3
    err = capsys.readouterr().err
    assert "s0" in err
    assert "shifted by" in err
    assert "64 × 64 pixels against 64 × 60" in err


def test_scenes_smaller_than_the_window_are_padded(site, capsys):
    code, trained = run(capsys, "train", site, "data.sampling.size=96", "predict.window=96")
    assert code == 0
    assert run(capsys, "evaluate", site, "data.sampling.size=96", "--model", trained["bundle"])[0] == 0


@pytest.mark.parametrize(("verb", "lost"), [("train", "train"), ("evaluate", "test")])
def test_an_empty_split(site, tmp_path, capsys, trained, verb, lost):
    table = tmp_path / "data/splits.csv"
    table.write_text(table.read_text().replace(f",{lost},", ",val,"))
    assert main(["index", str(site)]) == 0
    words = ["--model", trained] if verb == "evaluate" else []
    assert main([verb, str(site), *words]) == 3
    assert f"'{lost}'" in capsys.readouterr().err


def test_predict_with_another_number_of_bands(tmp_path, capsys, trained):
    factory.make_scene(tmp_path / "other", "x", bands=5)
    words = ["--images", str(tmp_path / "other/images/x.tif"), "--out", str(tmp_path / "maps")]
    assert main(["predict", "--model", trained, *words]) == 3
    err = capsys.readouterr().err
    assert "band_5 (5)" in err
    assert "band_3 (3)" in err
    assert not list((tmp_path / "maps").glob("*"))


def test_a_bundle_from_a_newer_version(tmp_path, capsys, trained):
    path = Path(trained) / "bundle.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"bundle_version": record["bundle_version"] + 1}))
    words = ["--images", str(tmp_path / "data/images/s5.tif"), "--out", str(tmp_path / "maps")]
    assert main(["predict", "--model", trained, *words]) == 3
    assert "newer" in capsys.readouterr().err


@pytest.mark.ray
def test_a_cluster_without_room_is_refused_instead_of_waited_for(site, capsys, ray_cluster):
    words = ["compute.runner=ray", "compute.num_workers=40", "train.global_batch=40"]
    assert main(["train", str(site), *words]) == 75
    err = capsys.readouterr().err
    assert "40 workers" in err
    assert "compute.num_workers=" in err
