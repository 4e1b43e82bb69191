"""What the command line writes, and where to: closed pipes, other encodings, and what it says to do next."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pipeline.__main__ import main
from pipeline.data.scenes import index, inspection
from pipeline.train import checkpoint
from tests.factory import recipe_for, world

SHOW = f"{sys.executable} -m pipeline recipe show r.yaml"


def shell(folder, command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, env={**os.environ, **environment}
    )


@pytest.fixture
def recipe(tmp_path):
    made = recipe_for(tmp_path)
    (tmp_path / "r.yaml").write_text(made.model_dump_json())
    return made


@pytest.mark.parametrize("end", ["| head -1 >/dev/null", "| true", ">&-"])
def test_a_reader_that_has_read_enough_is_no_error(tmp_path, recipe, end):
    done = shell(tmp_path, f"{SHOW} {end}")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_said(tmp_path, recipe):
    done = shell(tmp_path, f"{SHOW} > /dev/full")
    assert done.returncode == 75
    assert b"error: the output cannot be written: [Errno 28] No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_terminal(tmp_path, recipe, encoding):
    (tmp_path / "r.yaml").rename(tmp_path / "森.yaml")
    done = shell(tmp_path, f"{SHOW.removesuffix('r.yaml')} 森.yaml", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ("森.yaml:1" if encoding == "utf-8" else r"\u68ee.yaml:1").encode() in done.stdout


def test_errors_in_json_are_one_record(tmp_path, recipe, capsys):
    assert main(["recipe", "show", str(tmp_path / "r.yaml"), "train.steps=x", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == "RecipeError"
    assert "train.steps" in found["message"]


@pytest.fixture
def site(tmp_path):
    world(tmp_path / "data", scenes=6, size=32)
    changes = {"compute.output": str(tmp_path / "runs"), "train.steps": 4}
    made = recipe_for(tmp_path / "data", **changes)
    (tmp_path / "my recipe.yaml").write_text(made.model_dump_json())
    return made


def test_next_repeats_what_was_typed(tmp_path, site, capsys):
    away = ["compute.tracking_uri=http://127.0.0.1:9", "compute.tracking_required=false"]
    words = ["train", str(tmp_path / "my recipe.yaml"), "train.steps=2", *away]
    assert main(words) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    file = tmp_path / "my recipe.yaml"
    assert line.startswith(f"next: segpipe evaluate '{file}' train.steps=2 {' '.join(away)} --model {tmp_path}/runs/")


def test_what_the_same_command_does_next_is_said_as_it_is(tmp_path):
    run = str(tmp_path / "run")
    assert checkpoint.next_step(run) == "no checkpoint was written yet: the same command begins again"
    checkpoint.save(run, 3, {}, {"fingerprint": "f"}, keep=1)
    assert checkpoint.next_step(run) == "the same command goes on from the newest checkpoint (step 3)"


def test_another_name_alone_reads_no_scene_again(tmp_path, site, monkeypatch):
    first = index.index(site)
    read: list[str] = []
    look = inspection.inspect_scenes

    def counted(found, *rest):
        read.extend(f.id for f in found)
        return look(found, *rest)

    monkeypatch.setattr(inspection, "inspect_scenes", counted)
    renamed = recipe_for(tmp_path / "data", **{"compute.output": str(tmp_path / "runs"), "name": "other"})
    again = index.current(renamed)
    assert (again.digest, again.scenes, read) == (first.digest, first.scenes, [])
    changes = {"compute.output": str(tmp_path / "runs"), "name": "third", "data.nodata": 7}
    index.current(recipe_for(tmp_path / "data", **changes))
    assert len(read) == 6
