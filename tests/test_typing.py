"""What a type checker says to a user of the public names: it sees real signatures, though they are loaded lazily."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pipeline

ROOT = Path(__file__).parents[1]
RIGHT = """\
import pipeline

recipe = pipeline.load("recipe.yaml", ["train.steps=20"])
bundle = pipeline.fit(recipe, overwrite=True)
paths: list[str] = pipeline.predict(bundle, "scenes/*.tif", "maps")
classes: pipeline.Classes = pipeline.pull("models:/roads@champion").classes
"""
WRONG = {
    "pipeline.fit(12, nonsense=3)": 'Unexpected keyword argument "nonsense" for "fit"',
    "pipeline.nope": 'Module has no attribute "nope"',
    "pipeline.pull(3)": 'Argument 1 to "pull" has incompatible type "int"',
    "pipeline.load_model('a').section.nope": 'has no attribute "nope"',
}


def checked(path: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_right_use_is_taken_and_wrong_use_refused(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    wrong.write_text("import pipeline\n" + "\n".join(WRONG))
    assert "Success" in checked(right), checked(right)
    found = checked(wrong)
    for number, message in enumerate(WRONG.values(), 2):
        line = next(
            (text for text in found.splitlines() if f"wrong.py:{number}: error" in text and message in text), ""
        )
        assert line, f"line {number}: {message!r} is missing in\n{found}"


def test_type_checkers_know_every_public_name() -> None:
    """The names are written twice, since neither Python nor type checkers take the other's form."""
    source = Path(str(pipeline.__file__)).read_text()
    shown = {
        line.split(" as ")[-1]: line.split()[1] for line in source.splitlines() if line.startswith("    from pipeline.")
    }
    assert shown == pipeline._HOMES
