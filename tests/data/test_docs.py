"""The recipe that docs/data.md shows to a newcomer works on the folder that it describes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipeline import recipe as recipes
from pipeline.data import doctor
from pipeline.data.indexing.build import index
from tests.factory import make_pixels, write_raster

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_a_newcomers_folder_and_the_recipe_of_the_page(tmp_path: Path, monkeypatch) -> None:
    shown = re.search(r"```yaml\n(   name: field\n.*?)   ```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    (tmp_path / "field.yaml").write_text("\n".join(line[3:] for line in shown[1].splitlines()))
    for number, ending in enumerate((".jpg", ".tif", ".png", ".tif", ".jpg", ".tif", ".jpg", ".png")):
        side = 160 + 8 * number
        mask = np.kron(np.random.default_rng(number).integers(0, 2, (8, 8)), np.ones((side // 8, side // 8)))
        write_raster(tmp_path / "field/ann" / f"site{number}_mask.png", mask.astype(np.uint8) * 255)
        pixels = make_pixels(3, side, side, "uint8", seed=number) // 2 + (mask * 80).astype(np.uint8)
        write_raster(tmp_path / "field/pics" / f"site{number}{ending}", pixels)
    for name in ("README.md", ".DS_Store", "Thumbs.db"):
        (tmp_path / "field" / "pics" / name).write_text("no image")
    monkeypatch.chdir(tmp_path)
    recipe = recipes.load("field.yaml")
    manifest = index(recipe)
    assert [s.id for s in manifest.scenes] == [f"site{number}" for number in range(8)]
    assert {s.split for s in manifest.scenes} == {"train", "val", "test"}
    assert not doctor.examine(recipe, "report").errors
