"""Files that this program wrote and reads again, damaged in every way: made again with a warning, or exit 3 with what
to do; never exit 75 ("try again") and never a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import store
from pipeline.data.chips import quarantine
from pipeline.data.chips.quarantine import LeftOut, Replaced
from pipeline.data.chips.sampling import class_index_file, window_draw
from pipeline.data.chips.sampling.class_index import Presence, Runs
from pipeline.data.chips.statistics import compute
from pipeline.data.feed import batch_diversity
from pipeline.data.feed.shards.layout import INDEX, Layout, PlacedScene
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import index
from pipeline.data.scenes.manifest import Manifest
from pipeline.errors import DataError
from pipeline.model import bundle as bundles
from pipeline.model import model_dir
from pipeline.model.networks import NETWORK_META
from pipeline.model.networks import build as network
from pipeline.recipe import Recipe
from pipeline.recipe.networks import UNet
from pipeline.store import Cache
from pipeline.train import checkpoint, on_mlflow
from tests.factory import recipe_for, world
from tests.model import small

CONTENTS = {
    "empty": b"",
    "object": b"{}",
    "list": b"[]",
    "null": b"null",
    "number": b"7",
    "text": b'"x"',
    "random": np.random.default_rng(0).bytes(500),
    "brackets": b"[" * 10_000,
    "closed brackets": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "digits": b"9" * 5_000,
}


@dataclass(frozen=True)
class Own:
    """A file of this program and what reads it."""

    file: Path
    read: Callable[[], Any]
    again: Any = None
    """What is read where a damaged file is replaced or passed over; None where it is refused."""


def _recipe(folder: Path) -> Recipe:
    world(folder, scenes=6, size=32)
    recipe = recipe_for(folder, **{"compute.output": str(folder / "runs")})
    index.index(recipe)
    return recipe


def _pointer(folder: Path) -> Own:
    recipe = _recipe(folder)
    return Own(folder / "runs" / recipe.name / "manifest.json", lambda: index.current(recipe))


def _manifest(folder: Path) -> Own:
    _recipe(folder)
    (file,) = folder.glob("runs/*/manifests/*.parquet")
    return Own(file, lambda: Manifest.read(str(file)))


def _statistics(folder: Path) -> Own:
    recipe = _recipe(folder)
    manifest = index.current(recipe)
    right = compute.cached(recipe, manifest).mean
    (file,) = folder.glob("runs/*/statistics/*.json")
    return Own(file, lambda: compute.cached(recipe, manifest).mean, right)


def _presence(folder: Path) -> Own:
    file = folder / "a.presence-8.npz"
    file.parent.mkdir(exist_ok=True)
    none = Runs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    shares = np.zeros(0, np.uint8)
    found = Presence(("a",), np.array([[8, 8, 1]]), 8, (none,), none, np.array([64]), np.zeros(0, np.int64), shares)
    file.write_bytes(class_index_file.to_bytes(found))
    return Own(file, lambda: class_index_file.from_bytes(file.read_bytes(), str(file)))


def _left_out(folder: Path) -> Own:
    quarantine.write(str(folder), LeftOut((("a", "gone"),), (Replaced(3, "b", Window(0, 0, 8, 8), "cut"),)))
    return Own(folder / quarantine.FILE, lambda: quarantine.read(str(folder)))


def _mixing(folder: Path) -> Own:
    store.write_json(str(folder / batch_diversity.FILE), {"scenes_per_batch": 3.0})
    return Own(folder / batch_diversity.FILE, lambda: batch_diversity.read(str(folder)), {})


def _worst(folder: Path) -> Own:
    recipe = _recipe(folder)
    scenes = index.current(recipe).scenes
    example = {"scene": scenes[0].id, "window": [0, 0, 8, 8, 0], "kind": "worst"}
    store.write_json(str(folder / "report.json"), {"examples": [example]})
    return Own(folder / "report.json", lambda: window_draw.worst_windows(str(folder), scenes))


def _shards(folder: Path) -> Own:
    layout = Layout("d" * 64, "uint8", 3, 0, ("0.shard",), (10,), {"a": PlacedScene(0, 0, 8, 8)})
    store.write_bytes(str(folder / INDEX), layout.to_bytes())
    return Own(folder / INDEX, lambda: Layout.read(str(folder)))


def _bundle(folder: Path) -> Own:
    small.save(folder / "bundle")
    return Own(folder / "bundle" / bundles.META, lambda: bundles.load(folder / "bundle"))


def _network(folder: Path) -> Own:
    network(UNet(encoder="resnet10t", depth=2, decoder_channels=[16, 8]), 3, 2).save(folder / "network")
    return Own(folder / "network" / NETWORK_META, lambda: model_dir.load_dir(folder / "network"))


def _checkpoint(folder: Path) -> Own:
    for step in (2, 4):
        uri = checkpoint.save(str(folder), step, {}, {"fingerprint": "f", "recipe": {}}, keep=2)
    return Own(Path(uri) / "meta.json", lambda: checkpoint.start_of(str(folder)), 2)


def _link(folder: Path) -> Own:
    store.write_json(str(folder / "mlflow.json"), {"tracking_uri": "http://a", "run_id": "b"})
    return Own(folder / "mlflow.json", lambda: on_mlflow.read_link(str(folder)) or "none", "none")


OWN = (_pointer, _manifest, _statistics, _presence, _left_out, _mixing, _worst, _shards, _bundle, _network)
OWN = (*OWN, _checkpoint, _link)


def changed(content: bytes) -> Iterator[bytes]:
    """The content cut off, and each of its values as another type."""
    yield content[: len(content) // 2]
    yield content[:-3]
    try:
        tree = json.loads(content)
    except ValueError:
        return
    for key in tree:
        for value in ("x", None, -1, [[]], {"a": {}}, 1e400, [None], "9" * 400):
            yield json.dumps(tree | {key: value}).encode()
        yield json.dumps({other: value for other, value in tree.items() if other != key}).encode()


@pytest.mark.parametrize("make", OWN, ids=lambda make: make.__name__[1:])
def test_a_damaged_file_is_made_again_or_refused_by_name(tmp_path, caplog, make):
    own = make(tmp_path)
    own.read()
    content = own.file.read_bytes()
    for name, damaged in {**CONTENTS, "half": content[: len(content) // 2]}.items():
        if damaged == b"{}" and make is _mixing:  # what it holds where nothing was counted
            continue
        own.file.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            if own.again is not None:
                assert own.read() == own.again, name
                assert str(own.file.parent) in caplog.text, name
            else:
                with pytest.raises(DataError) as caught:
                    own.read()
                assert caught.value.exit_code == 3, name
                assert str(own.file.parent) in caught.value.message, name
                assert caught.value.hint, name


@pytest.mark.parametrize("make", OWN, ids=lambda make: make.__name__[1:])
def test_values_of_other_types_are_read_or_refused(tmp_path, make):
    own = make(tmp_path)
    for content in changed(own.file.read_bytes()):
        own.file.write_bytes(content)
        try:
            own.read()
        except DataError as error:
            assert error.hint


def test_damaged_records_are_left_out_and_lines_named(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    good = [{"step": step, "time": 1, "loss": 0.5} for step in range(3)]
    bad = [b"\xff\xfe", b"[" * 10_000, b'{"step": "x", "time": 1}', b"null", b"{}", b"[1]"]
    bad.append(b'{"step": 1, "time": 1, "a": {}}')
    first, *rest = [json.dumps(row).encode() for row in good]
    file.write_bytes(b"\n".join([first, *bad, *rest, b'{"step": 3, "ti']))
    with caplog.at_level(logging.WARNING):
        assert on_mlflow.read_rows(str(file)) == good
    assert f"{file}: 7 damaged records left out (line 2, 3, 4, 5, 6, 7, 8)" in caplog.text
    on_mlflow.MetricsTracker(str(tmp_path), start_step=1).close()
    assert on_mlflow.read_rows(str(file)) == good[:2]


def test_a_record_that_a_kill_cut_short_is_no_damage(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "time": 1}\n{"step": 2, "ti')
    with caplog.at_level(logging.WARNING):
        assert on_mlflow.read_rows(str(file)) == [{"step": 1, "time": 1}]
    assert not caplog.text


@pytest.mark.parametrize("damage", list(CONTENTS.values()), ids=list(CONTENTS))
def test_a_damaged_cache_is_filled_again(tmp_path, damage):
    cache = Cache(tmp_path, 1 << 20)
    cache.put("a", b"content")
    file = cache.file("b", lambda path: path.write_bytes(b"right") and None)
    file.rename(file.with_name(file.name.rpartition("-")[0] + "-x"))
    (tmp_path / "total").write_bytes(damage)
    for path in tmp_path.glob("*/*"):
        path.write_bytes(damage)
    cache = Cache(tmp_path, 1 << 20)
    assert cache.get("a") is None
    cache.put("a", b"content")
    assert cache.get("a") == b"content"
    assert cache.file("b", lambda path: path.write_bytes(b"right") and None).read_bytes() == b"right"
