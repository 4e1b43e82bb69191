"""No traceback leaves the command line, and exit code 1 never happens, whatever is typed or lies on the disk."""

from __future__ import annotations

import os
from contextlib import chdir

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.__main__ import main
from pipeline.model.bundle import META
from tests.factory import recipe_for, world
from tests.model import small

CODES = {0, 2, 3, 4, 5, 75}
AWAY = "http://127.0.0.1:9"

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
numbers = st.sampled_from(["0", "-1", "nan", "inf", "1e9", "1e400", "9" * 5000, "0.9999", "1_000", "0x10"])
odd = st.sampled_from(
    [
        "",
        " ",
        "-",
        "--",
        "=",
        "null",
        "[]",
        "{}",
        "[" * 5000,
        "&a *a",
        "*.tif",
        "{id}",
        "#fff",
        "@a",
        "`",
        "%",
        "a\nb",
        "inline:",
        "inline:AAAA",
        ".",
        "..",
        "/dev/null",
        "x" * 5000,
        "\udcff",
        "~nobody/x",
        "//",
        "a\tb",
        "😀",
        "!!python",
    ]
)
paths = st.sampled_from(["r.yaml", "bundle", "data", "data/images", "data/images/s0.tif", "fifo", "loop", "dangling"])
files = st.sampled_from(["damaged.yaml", "damaged.tif", "data/splits.csv", "s3://", "runs:/x", "models:/x@y"])
keys = st.sampled_from(
    [
        "data",
        "data.root",
        "data.images",
        "data.labels",
        "data.classes",
        "data.split",
        "data.nodata",
        "data.sampling",
        "data.sampling.size",
        "data.split.kind",
        "data.statistics_pixels",
        "data.reading",
        "data.classes.0",
        "seed",
        "model",
        "model.kind",
        "model.encoder",
        "train.steps",
        "train.global_batch",
        "compute.output",
        "name",
        "extends",
        "predict.window",
        "predict.overlap",
        "a..b",
        "",
        ".",
        "data.",
        "loss",
        "augment",
        "tune.space",
        "evaluate",
    ]
)
values = st.one_of(text, numbers, odd, paths, files)
overrides = st.builds("{}={}".format, keys, values)
recipes = st.one_of(st.just("r.yaml"), st.just("r.yaml"), paths, files, values)
switches = st.lists(st.sampled_from(["--json", "--verbose"]), max_size=1)


def words(*parts) -> st.SearchStrategy[list[str]]:
    """A command line of fixed words and drawn ones."""
    drawn = [
        st.just([part]) if isinstance(part, str) else part.map(lambda x: x if isinstance(x, list) else [x])
        for part in parts
    ]
    return st.tuples(*drawn, switches).map(lambda lists: [word for one in lists for word in one])


some = st.lists(overrides, max_size=2)
commands = st.one_of(
    words("recipe", "show", recipes, some),
    words("index", recipes, some),
    words("doctor", recipes, some),
    words("data", "preview", recipes, some, "--out", "p.png"),
    words("predict", "--model", values, "--images", values, "--out", "o", "--tracking-uri", AWAY),
    words(
        "predict", "--model", "bundle", "--images", values, "--out", st.sampled_from(["o", "fifo", "r.yaml", "loop"])
    ),
    words("predict", "--model", "bundle", "--images", "data/images/s0.tif", "--out", "o2", "--window", numbers),
    words("predict", "--model", "bundle", "--images", "data/images/s0.tif", "--out", "o2", "--overlap", numbers),
    words("models", "list", st.lists(values, max_size=2)),
    words("models", "show", values),
    words("evaluate", recipes, "--model", values, f"compute.tracking_uri={AWAY}"),
    words("promote", recipes, "--model", values, f"compute.tracking_uri={AWAY}"),
    words(values, values, values),
)
damage = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [b"[" * 10_000, b"null", b"a: &a [*a]", b"II*\0", b"\xef\xbb\xbf", b"a\rb\r", b"\0" * 50, b"extends: 3"]
    ),
    text.map(str.encode),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a recipe, scenes, a bundle, and what is none of these."""
    folder = tmp_path_factory.mktemp("fuzz")
    world(folder / "data", scenes=6, size=32)
    made = recipe_for(folder / "data", **{"compute.output": str(folder / "runs"), "compute.tracking_uri": AWAY})
    (folder / "r.yaml").write_text(made.model_dump_json())
    small.save(folder / "bundle", num_bands=3, dtype="uint8")
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    for name in ("damaged.yaml", "damaged.tif"):
        (folder / name).write_bytes(b"")
    with chdir(folder):
        yield folder


def ends(line: list[str]) -> int:
    """Run a command; returns its exit code, of errors of usage too."""
    try:
        return main(line)
    except SystemExit as end:  # how argparse ends
        return int(end.code or 0)


def ends_well(line: list[str]) -> None:
    code = ends(line)
    assert code in CODES, line


typed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)


@settings(typed, max_examples=30)
@given(line=commands)
@example(line=["predict", "--model", "bundle", "--images", "r.yaml", "--out", "loop"])
def test_whatever_is_typed(place, line):
    ends_well(line)


@settings(typed, max_examples=25)
@given(content=damage, target=st.sampled_from(["damaged.yaml", "damaged.tif", "data/splits.csv", f"bundle/{META}"]))
def test_whatever_lies_there(place, content, target):
    file = place / target
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        ends_well(["recipe", "show", "damaged.yaml"])
        ends_well(["predict", "--model", "bundle", "--images", "damaged.tif", "--out", "o"])
        if target == "data/splits.csv":
            ends_well(["index", "r.yaml"])
    finally:
        file.write_bytes(before)


@pytest.mark.slow
@settings(typed, max_examples=1500)
@given(line=commands)
def test_whatever_is_typed_for_long(place, line):
    ends_well(line)


@pytest.mark.slow
@settings(typed, max_examples=300)
@given(content=damage, target=st.sampled_from(["data/images/s0.tif", "data/masks/s0.tif", "data/splits.csv", "r.yaml"]))
def test_whatever_is_indexed(place, content, target):
    file = place / target
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        ends_well(["index", "r.yaml"])
        ends_well(["doctor", "r.yaml"])
    finally:
        file.write_bytes(before)
