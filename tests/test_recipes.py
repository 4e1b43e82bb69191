"""Every shipped recipe loads, and its head says what one needs to know before running it."""

from pathlib import Path

import pytest

import pipeline
from pipeline.data.labels.classes import Classes
from pipeline.data.scenes import synthetic

RECIPES = sorted((Path(__file__).parent.parent / "jobs" / "recipes").glob("*.yaml"))


def test_the_three_recipes_are_there() -> None:
    assert {"demo", "nuclei", "buildings"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_loads_under_its_own_name(path: Path) -> None:
    recipe = pipeline.load(path)
    assert recipe.name == path.stem
    assert recipe.compute.num_workers == 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_begins_with_purpose_command_hardware_time_and_expected_score(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    said = [line.removeprefix("# ").split(":")[0] for line in head if ":" in line and not line.startswith("#  ")]
    assert said == ["Purpose", "Command", "Hardware", "Time", "Expected"]
    assert any(character.isdigit() for character in head[-1] + head[-2])
    assert f"jobs/recipes/{path.name}" in "\n".join(head)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_runs_where_it_says(path: Path) -> None:
    """The demo must fit on two cores, the others on four."""
    compute = pipeline.load(path).compute
    needed = compute.num_workers * compute.cpus_per_worker + compute.data_cpus
    assert needed <= (2 if path.stem == "demo" else 4)


def test_demo_names_the_classes_of_the_made_up_world() -> None:
    classes = Classes.from_section(pipeline.load(next(p for p in RECIPES if p.stem == "demo")).data)
    assert classes.names == synthetic.CLASSES
    assert classes.colors == synthetic.COLORS
