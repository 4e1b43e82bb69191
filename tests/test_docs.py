"""What the pages name exists (Python names, recipe keys, commands, files), and a newcomer's recipe works."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline import __main__ as command_line
from pipeline import recipe as recipes
from pipeline.data import doctor
from pipeline.data.scenes.index import index
from tests.factory import make_pixels, write_raster

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "data.md"
PAGES = [ROOT / "README.md", ROOT / "k8s" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_FILES = {"py", "json", "jsonl", "yaml", "csv", "html", "png", "tif", "txt", "safetensors", "onnx", "db", "md", "gpkg"}


@cache
def modules() -> dict[str, list[str]]:
    """Full names of our modules by their last part."""
    found: dict[str, list[str]] = {"pipeline": ["pipeline"]}
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        found.setdefault(module.name.rpartition(".")[2], []).append(module.name)
    return found


@cache
def schema() -> dict[str, Any]:
    return recipes.Recipe.model_json_schema()


def properties(node: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What a part of a recipe may hold, over all its kinds; `*` where any key may stand."""
    found: dict[str, list[dict[str, Any]]] = {}
    if "$ref" in node:
        return properties(schema()["$defs"][node["$ref"].rpartition("/")[2]])
    for name, inner in node.get("properties", {}).items():
        found.setdefault(name, []).append(inner)
    if isinstance(node.get("additionalProperties"), dict):
        found["*"] = [node["additionalProperties"]]
    for inner in [*node.get("anyOf", []), *node.get("oneOf", []), *([node["items"]] if "items" in node else [])]:
        for name, parts in properties(inner).items():
            found.setdefault(name, []).extend(parts)
    return found


def is_key(path: list[str], nodes: list[dict[str, Any]]) -> bool:
    """Whether the dotted path leads somewhere from one of these parts of a recipe."""
    if not path:
        return True
    inner = [
        part for node in nodes for name, parts in properties(node).items() if name in (path[0], "*") for part in parts
    ]
    return bool(inner) and is_key(path[1:], inner)


@cache
def sections() -> dict[str, list[dict[str, Any]]]:
    """Every part of a recipe that has keys, by its name: `reading` is `data.reading`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for definition in [schema(), *schema()["$defs"].values()]:
        for name, parts in properties(definition).items():
            found.setdefault(name, []).extend(part for part in parts if properties(part))
    return {name: parts for name, parts in found.items() if parts}


def is_attribute(owner: Any, path: list[str]) -> bool:
    """Whether the dotted path leads somewhere; beyond what only instances have, nothing is known."""
    for name in path:
        if name in {n for kind in getattr(owner, "__mro__", ()) for n in getattr(kind, "__annotations__", {})}:
            return True
        if not hasattr(owner, name):
            if f"{getattr(owner, '__name__', '')}.{name}" not in modules().get(name, []):
                return False
            importlib.import_module(f"{owner.__name__}.{name}")
        owner = getattr(owner, name)
        if not (inspect.ismodule(owner) or inspect.isclass(owner)):
            return True
    return True


def exists(dotted: str) -> bool | None:
    """Whether a dotted name is a recipe key or a name of the package; None where it is neither by its first part."""
    first, *rest = dotted.split(".")
    owners = [importlib.import_module(name) for name in modules().get(first, [])]
    if first.capitalize() in pipeline.__all__:  # `bundle.network` is what a Bundle has
        owners.append(getattr(pipeline, first.capitalize()))
    if not owners and first not in sections():
        return None
    if dotted.startswith("tune.space."):  # its keys are dotted paths themselves
        return exists(dotted.removeprefix("tune.space."))
    return is_key(rest, sections().get(first, [])) or any(is_attribute(owner, rest) for owner in owners)


def inline(text: str) -> Iterator[str]:
    """Code between single backticks, outside of blocks."""
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def python_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def variables(text: str) -> set[str]:
    """Names that the page's own code uses: `model.state_dict()` may be of its `model`, no recipe's."""
    trees = [ast.parse(block) for block in python_of(text)]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return used - {name for tree in trees for name in imported(tree)} - {"bundle", "recipe"}


def wrong_in_prose(text: str) -> Iterator[str]:
    own = variables(text)
    for code in inline(text):
        found = _DOTTED.match(code)
        first, _, last = (found[0] if found else "").partition(".")
        if found and first not in own and last.rpartition(".")[2] not in _FILES and exists(found[0]) is False:
            yield f"`{code}`: {found[0]} is no recipe key and no name of the package"
    for override in re.findall(r"(?<![\w./-])([a-z_]+(?:\.[a-z_0-9]+)+)=", text):
        first, *rest = override.split(".")
        if first in properties(schema()) and not is_key(rest, sections().get(first, [])):
            yield f"{override}=: no recipe key"
    for path in re.findall(r"(?<![\w/.-])((?:pipeline|jobs|bench|tests|k8s|docs)/[\w/.-]*\w)", text):
        if not (ROOT / path).exists():
            yield f"{path}: no file"
    for module in re.findall(r"python -m ((?:pipeline|jobs|bench|tests)[\w.]*)", text):
        if importlib.util.find_spec(module) is None:
            yield f"{module}: no module"


def wrong_commands(text: str) -> Iterator[str]:
    """Verbs and options of `segpipe` that the command line does not take."""
    for words in re.findall(r"(?:^ {4,}|`)segpipe +([^`#\n]+)", text.replace("\\\n", " "), re.MULTILINE):
        parser, rest = command_line._parser(), words.split()
        while below := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]:
            if not rest or rest[0] not in below[0].choices:
                yield f"segpipe {words}: no verb {rest[:1]}"
                break
            parser = below[0].choices[rest.pop(0)]
        takes = parser._option_string_actions
        yield from (
            f"segpipe {words}: no option {w}" for w in rest if w.startswith("--") and w.split("=")[0] not in takes
        )


def imported(tree: ast.Module) -> dict[str, Any]:
    """Our objects by the names that a block gives them; an import of what is not there gives None."""
    found: dict[str, Any] = {"pipeline": pipeline}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            for alias in node.names:
                owner = importlib.import_module(str(node.module))
                is_attribute(owner, [alias.name])  # imports a module of a package
                found[alias.asname or alias.name] = getattr(owner, alias.name, None)
    return found


def chain(node: ast.expr) -> list[str]:
    """`a.b.c` as its parts; nothing for other expressions."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = chain(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if before and isinstance(node, ast.Attribute) else []


def wrong_in_python(source: str) -> Iterator[str]:
    """Imports, attributes and keyword arguments that are not there."""
    tree = ast.parse(source)
    names = imported(tree)
    yield from (f"import of {name}: not there" for name, value in names.items() if value is None)
    for node in ast.walk(tree):
        parts = chain(node) if isinstance(node, (ast.Attribute, ast.Name)) else []
        if parts and names.get(parts[0]) is not None and not is_attribute(names[parts[0]], parts[1:]):
            yield f"{'.'.join(parts)}: not there"
        if isinstance(node, ast.Call):
            yield from wrong_arguments(node, names)


def wrong_arguments(call: ast.Call, names: dict[str, Any]) -> Iterator[str]:
    first, *rest = chain(call.func) or [""]
    target = names.get(first)
    for name in rest:
        target = getattr(target, name, None)
    if not inspect.isroutine(target) and not inspect.isclass(target):
        return
    takes = inspect.signature(target).parameters
    if any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        return
    yield from (f"{ast.unparse(call)}: no argument {k.arg}" for k in call.keywords if k.arg and k.arg not in takes)


def wrong_on(text: str) -> list[str]:
    return [
        *wrong_in_prose(text),
        *wrong_commands(text),
        *(what for block in python_of(text) for what in wrong_in_python(block)),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_exists(page: Path) -> None:
    assert wrong_on(page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "`data.reading.mppp`",
        "`reading.mppp: 0.5`",
        "`compute.threads`",
        "`pipeline.from_nowhere`",
        "`compute.nothing(manifest)`",
        "`bundle.nothing`",
        "    segpipe train a.yaml train.stepz=3",
        "`jobs/recipes/none.yaml`",
        "`python -m bench.none`",
        "    segpipe retrain roads.yaml",
        "`segpipe data look roads.yaml`",
        "`segpipe train roads.yaml --nothing`",
        "```python\nfrom pipeline.data.chips.statistics import nothing\n```",
        "```python\nimport pipeline\npipeline.nothing(1)\n```",
        "```python\nfrom pipeline.world import World\nWorld.nothing()\n```",
        "```python\nimport pipeline\npipeline.fit(recipe, nothing=1)\n```",
    ],
)
def test_what_does_not_exist_is_found(text: str) -> None:
    assert len(wrong_on(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "`data.reading.mpp`",
        "`tune.space.train.optimizer.lr`",
        "`compute.threads_per_worker=2`",
        "`split.seed`",
        "`torch.export` `left_out.json`",
        "`compute.jobs(manifest, data)` `bundle.network(image)` `pipeline.metrics`",
        "```python\nfrom pipeline.data.feed.plan import Plan\nPlan.of\n```",
    ],
)
def test_what_exists_is_not_complained_of(text: str) -> None:
    assert wrong_on(text) == []


def test_a_newcomers_folder_and_the_recipe_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
