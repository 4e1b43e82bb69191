"""Shards: chips from them are chips from the files, to the bit; what is damaged or foreign is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import config
from pipeline.data.chips import raw_chip
from pipeline.data.chips.raw_chip import RawChip
from pipeline.data.feed.plan import Plan
from pipeline.data.feed.shards import prepare, shard_writer
from pipeline.data.feed.shards.shard_reader import Shards
from pipeline.data.feed.shards.size_advice import Advice
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters import raster_io
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes.manifest import Manifest
from pipeline.data.scenes.scene import Scene
from pipeline.errors import DamagedError, ManifestError, SceneError
from pipeline.recipe import Data, Recipe
from tests.data.feed.feed_world import AUGMENT, plan, scene
from tests.factory import write_raster
from tests.servers import S3


def recipe_of(folder: Path, data: Data, **changes: Any) -> Recipe:
    tree = {"name": "s", "data": data.model_dump(mode="json") | changes, "compute": {"output": str(folder / "runs")}}
    return config.validate(Recipe, tree)


def manifest_of(source: Plan) -> Manifest:
    bands = [f"b{n}" for n in range(source.num_bands)]
    return Manifest.of(source.scenes, bands, source.dtype, source.classes, source.data.model_dump(mode="json"))


def prepared(folder: Path, source: Plan, **changes: Any) -> Plan:
    """The same plan, its windows from shards."""
    manifest = manifest_of(source)
    recipe = recipe_of(folder, source.data, **changes)
    done = prepare.prepare(recipe, manifest)
    assert prepare.found(recipe, manifest) == done.uri
    return replace(source, digest=manifest.digest, shards=done.uri)


def assert_same(one: RawChip, other: RawChip) -> None:
    for got, wanted in zip(one.finished((7.0,) * 4), other.finished((7.0,) * 4), strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)
    assert np.array_equal(one.valid, other.valid)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Shards]:
    """Scenes of several chunks, of one that is not whole, and of less than one; with every kind of invalid pixels."""
    folder = tmp_path_factory.mktemp("scenes")
    kinds = [("nodata", 300, 261), ("mask", 128, 256), ("alpha", 20, 130), ("nodata", 64, 64)]
    made = tuple(
        scene(folder, f"s{n}", height=h, width=w, invalid=kind, seed=n) for n, (kind, h, w) in enumerate(kinds)
    )
    source = replace(prepared_world(folder), scenes=made)
    done = prepared(folder, source)
    return done, Shards.open(done.shards, done.digest)


def prepared_world(folder: Path, **options: Any) -> Plan:
    (folder / "world").mkdir()
    return plan(folder / "world", **options)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 3),
    row=st.integers(-150, 320),
    col=st.integers(-150, 280),
    height=st.integers(1, 280),
    width=st.integers(1, 280),
)
def test_any_window_is_that_of_the_files(
    world: tuple[Plan, Shards], number: int, row: int, col: int, height: int, width: int
) -> None:
    source, shards = world
    window, where = Window(row, col, height, width), source.scenes[number]
    found = shards.read(where.id, window)
    assert found is not None
    assert_same(found, raw_chip.read(where, window, source.classes, data=source.data))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    invalid = "nan" if dtype == "float32" else "nodata"
    one = scene(tmp_path, "a", height=150, width=131, bands=3, dtype=dtype, invalid=invalid)
    source = replace(prepared_world(tmp_path), scenes=(one,), dtype=dtype, num_bands=3, fill=(1.0, 2.0, 3.0))
    for number in range(6):
        for got, wanted in zip(prepared(tmp_path, source).chip(number), files(tmp_path, source, number), strict=True):
            assert np.array_equal(got, wanted)


def files(folder: Path, source: Plan, number: int) -> tuple[np.ndarray, np.ndarray]:
    return replace(source, digest=manifest_of(source).digest).chip(number)


def test_chips_and_the_feed_are_the_same(tmp_path: Path) -> None:
    source = prepared_world(tmp_path, augment=AUGMENT)
    fast = prepared(tmp_path, source)
    slow = replace(fast, shards="")
    numbers = range(2 * fast.order.epoch_size)
    for got, wanted in zip(fast.stack(numbers), slow.stack(numbers), strict=True):
        assert np.array_equal(got, wanted)
    copy = pickle.loads(pickle.dumps(fast))
    assert np.array_equal(copy.chip(3)[0], slow.chip(3)[0])


def test_the_files_are_not_needed_any_more(tmp_path: Path) -> None:
    fast = prepared(tmp_path, prepared_world(tmp_path))
    wanted = [replace(fast, shards="").chip(n) for n in range(8)]
    for one in fast.scenes:
        Path(one.image).unlink()
    assert all(np.array_equal(fast.chip(n)[0], image) for n, (image, _) in enumerate(wanted))


def test_other_scales_are_read_from_the_files(tmp_path: Path) -> None:
    source = prepared_world(tmp_path, sampling={"size": 32, "scale": [0.5, 2.0]})
    fast = prepared(tmp_path, source)
    for number in range(8):
        got, wanted = fast.chip(number), replace(fast, shards="").chip(number)
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_constant_mask_and_invalid_chunks_take_no_room(tmp_path: Path) -> None:
    pixels = np.zeros((4, 128, 512), np.uint16)
    pixels[:, :, :128] = np.random.default_rng(0).integers(1, 60000, (4, 128, 128))
    one = scene(tmp_path, "a", height=128, width=512, pixels=pixels, label=np.ones((128, 512), np.uint8))
    source = replace(prepared_world(tmp_path, sampling={"size": 32}), scenes=(one,))
    source = replace(source, data=source.data.model_copy(update={"nodata": 0.0}))
    done = prepare.prepare(recipe_of(tmp_path, source.data), manifest_of(source))
    assert done.stored_bytes < 4 * 2 * 128 * 128 * 1.1
    found = Shards.open(done.uri, manifest_of(source).digest).read("a", Window(0, 100, 128, 300))
    assert found is not None
    assert found.valid[:, :28].all()
    assert not found.valid[:, 28:].any()
    assert (found.mask[:, :28] == 1).all()
    assert (found.mask[:, 28:] == IGNORE).all()


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_SHARD_BYTES", 40_000)
    source = prepared_world(tmp_path)
    manifest, recipe = manifest_of(source), recipe_of(tmp_path, source.data)
    first = prepare.prepare(recipe, manifest)
    assert (first.num_new, first.num_shards) == (4, 4)
    Path(first.uri, "00001.shard").unlink()
    Path(first.uri, "00002.shard").write_bytes(Path(first.uri, "00002.shard").read_bytes()[:-1])
    steps: list[tuple[int, int]] = []
    again = prepare.prepare(recipe, manifest, progress=lambda done, total: steps.append((done, total)))
    assert (again.num_new, again.stored_bytes) == (2, first.stored_bytes)
    assert steps[-1][0] == steps[-1][1] == sum(s.height * s.width for s in source.scenes)
    assert not list(Path(first.uri).glob(".*"))


def test_an_interrupted_prepare_leaves_nothing_that_counts(tmp_path: Path) -> None:
    source = prepared_world(tmp_path)
    Path(source.scenes[2].image).unlink()
    manifest, recipe = manifest_of(source), recipe_of(tmp_path, source.data)
    with pytest.raises(SceneError, match=r"s2\.tif"):
        prepare.prepare(recipe, manifest)
    assert prepare.found(recipe, manifest) == ""
    assert not list(Path(prepare.place(recipe, manifest)).glob("*"))


def test_other_data_and_other_ways_of_reading_have_other_shards(tmp_path: Path) -> None:
    source = prepared_world(tmp_path)
    manifest, recipe = manifest_of(source), recipe_of(tmp_path, source.data)
    done = prepare.prepare(recipe, manifest)
    assert prepare.found(recipe_of(tmp_path, source.data, nodata=5.0), manifest) == ""
    assert prepare.found(recipe_of(tmp_path, source.data, augment=["D4"]), manifest) == done.uri
    with pytest.raises(ManifestError, match="are of manifest"):
        Shards.open(done.uri, "another")
    with pytest.raises(ManifestError, match="no prepared shards"):
        Shards.open(str(tmp_path / "nowhere"), "another")


@pytest.mark.parametrize("damage", ["cut", "flip", "table", "gone", "index"])
def test_damage_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    fast = prepared(tmp_path, prepared_world(tmp_path))
    path, index = Path(fast.shards, "00000.shard"), Path(fast.shards, "shards.json")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[12:16] = b"\xff\xff\xff\x7f"  # a frame that claims to be longer than the file
        path.write_bytes(content)
    elif damage == "table":
        content[-80] ^= 1
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    else:
        tree = json.loads(index.read_text())
        index.write_text(json.dumps(tree | {"scenes": 3}))
    with pytest.raises((SceneError, DamagedError), match="shard") as caught:
        for number in range(20):
            fast.chip(number)
    assert "segpipe prepare" in caught.value.hint


def test_verify_finds_a_flipped_bit(tmp_path: Path) -> None:
    fast = prepared(tmp_path, prepared_world(tmp_path))
    Shards.open(fast.shards, fast.digest).verify()
    path = Path(fast.shards, "00000.shard")
    content = bytearray(path.read_bytes())
    content[40] ^= 4
    path.write_bytes(content)
    with pytest.raises(SceneError, match="damaged at scene s0"):
        Shards.open(fast.shards, fast.digest).verify()


def test_damaged_parts_are_left_to_the_files(tmp_path: Path) -> None:
    """With quarantine, what cannot be read is replaced by the same windows with shards as without."""
    source = prepared_world(tmp_path, sampling={"size": 32})
    broken = source.scenes[1]
    write_raster(Path(broken.image), np.full((4, 80, 60), 9, np.uint16), tiled=True, blockxsize=32, blockysize=32)
    content = bytearray(Path(broken.image).read_bytes())
    Path(broken.image).write_bytes(content[:-3000])
    data = source.data.model_validate(source.data.model_dump() | {"on_error": {"kind": "quarantine", "max": 500}})
    source = replace(source, data=data)
    recipe = recipe_of(tmp_path, data)
    fast = prepared(tmp_path, source)
    slow = replace(fast, shards="")
    length = fast.order.epoch_size * 4
    pairs = [(one.empty(length), one) for one in (fast, slow)]
    reports = [one.put(range(length), list(images), list(masks)) for (images, masks), one in pairs]
    assert reports[0]
    assert prepare.prepare(recipe, manifest_of(source)).unreadable == ("s1",)
    assert sorted(r.number for r in reports[0]) == sorted(r.number for r in reports[1])
    assert np.array_equal(pairs[0][0][0], pairs[1][0][0])


def test_slices_of_volumes(tmp_path: Path) -> None:
    """Where a chunk lies depends on its slice."""
    placed = shard_writer.placed([[replace(scene(tmp_path, "a"), height=200, width=300, slices=3)]])
    assert placed["a"].grid == (2, 3)
    assert placed["a"].num_chunks == 18


def test_advice_is_measured_on_the_data(tmp_path: Path) -> None:
    source = prepared_world(tmp_path)
    manifest = manifest_of(source)
    recipe = replace_steps(recipe_of(tmp_path, source.data), 1)
    advice = prepare.advise(recipe, manifest)
    done = prepare.prepare(recipe, manifest)
    assert 0.5 < advice.stored_bytes / done.stored_bytes < 2
    assert min(advice.files_ms, advice.prepare_s) > 0
    assert advice.epoch_chips == source.order.epoch_size
    assert advice.planned_epochs == 8 / source.order.epoch_size
    assert "ms of CPU from the files" in advice.text()


def test_advice_weighs_cost_against_gain() -> None:
    advice = Advice(20.0, 1.0, 190.0, 10**9, 2 * 10**9, 1000, 12.0)
    assert advice.saved_s == 19
    assert advice.epochs_until == 10
    assert advice.pays
    assert not replace(advice, planned_epochs=9.0).pays
    assert not replace(advice, free_bytes=10).pays
    assert replace(advice, free_bytes=None).pays
    assert "does not pay" in replace(advice, files_ms=0.5).text()
    assert "does not fit" in replace(advice, free_bytes=10).text()


def replace_steps(recipe: Recipe, steps: int) -> Recipe:
    return config.replace(recipe, {"train.steps": steps, "train.global_batch": 8})


def test_slices_lie_one_after_the_other(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 999, (150, 140, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    source = prepared_world(tmp_path)
    info = raster_io.describe(str(tmp_path / "v.nii"))
    one = Scene("v", str(tmp_path / "v.nii"), None, "train", "g", *info.levels[0], None, info.grid.transform, "")
    one = replace(one, slices=info.slices)
    assert info.slices == 3
    fast = prepared(tmp_path, replace(source, scenes=(one,), dtype=info.dtype, num_bands=1, fill=(0.0,)))
    shards = Shards.open(fast.shards, fast.digest)
    for level in range(3):
        window = Window(100, 90, 60, 60, level)
        found, wanted = shards.read("v", window), raw_chip.read(one, window, source.classes, data=source.data)
        assert found is not None
        assert np.array_equal(found.valid, wanted.valid)
        assert np.array_equal(found.finished((0.0,))[0], wanted.finished((0.0,))[0])


def test_shards_in_a_bucket(s3_server: S3, tmp_path: Path) -> None:
    source = prepared_world(tmp_path)
    manifest = manifest_of(source)
    recipe = config.replace(recipe_of(tmp_path, source.data), {"compute.output": s3_server.uri("shards")})
    first = prepare.prepare(recipe, manifest)
    assert first.uri.startswith("s3://")
    assert prepare.prepare(recipe, manifest).num_new == 0
    fast = replace(source, digest=manifest.digest, shards=prepare.found(recipe, manifest))
    for got, wanted in zip(fast.stack(range(12)), replace(fast, shards="").stack(range(12)), strict=True):
        assert np.array_equal(got, wanted)
