"""The recipe on the page about labels is one."""

from pathlib import Path

from ruamel.yaml import YAML

from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.recipe.data import Data

PAGE = Path(__file__).parents[3] / "docs" / "labels.md"


def test_the_recipe_of_the_page_means_what_it_says():
    text = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    data = Data(root=".", **YAML(typ="safe").load(text)["data"])
    classes = Classes.from_section(data)
    assert [classes.id_of(v) for v in ("garage", "road", "unclear")] == [1, 2, IGNORE]
    assert (data.align, data.label.order) == ("image", "class")
