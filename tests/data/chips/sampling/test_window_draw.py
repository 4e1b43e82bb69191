"""Which windows each kind of sampling draws, against looking at the masks themselves."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.config import replace
from pipeline.data.chips.sampling.class_index import needed
from pipeline.data.chips.sampling.order import ChipRef, Order
from pipeline.data.chips.sampling.window_draw import Shape, Words, Worst, around, worst_windows
from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window, cover
from pipeline.errors import DamagedError, ManifestError, RecipeError
from pipeline.recipe.sampling import AnySampling, Balanced, Foreground, GridSampling, Hard, Sampling, Uniform
from tests.data.scenes.masks_world import World, blobs, scene
from tests.factory import recipe_for

NAMES = ("ground", "common", "rare")
WORLD = World(
    [blobs(300, 200, 1), blobs(90, 400, 2), blobs(130, 130, 3, slices=2), blobs(20, 25, 4), blobs(256, 64, 5)]
)
PRESENCE = WORLD.presence(8)
ANY: TypeAdapter[Sampling] = TypeAdapter(AnySampling)
WORST = [Worst(0, Window(10, 20, 32, 32)), Worst(2, Window(100, 0, 30, 32, 1))]
KINDS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "scaled": {"scale": (0.5, 2.0)},
    "valid": {"min_valid": 0.8},
    "local": {"locality": {"tile": 32, "tiles": 3, "chips": 4, "pool": 5}},
    "local_scaled": {"locality": {"tile": 16, "tiles": 6, "chips": 3, "pool": 2}, "scale": (0.5, 2)},
    "local_valid": {"locality": {"tile": 32, "tiles": 3, "chips": 4, "pool": 5}, "min_valid": 0.6},
    "grid": {"kind": "grid", "overlap": 0.3},
    "grid_scene": {"kind": "grid", "jitter": 5, "weight": "scene"},
    "grid_valid": {"kind": "grid", "min_valid": 0.5, "scale": (0.8, 1.3)},
    "balanced": {"kind": "balanced", "classes": ["rare"], "share": 0.7},
    "balanced_scene": {"kind": "balanced", "weight": "scene", "scale": (0.4, 1.6), "min_valid": 0.5},
    "foreground": {"kind": "foreground"},
    "hard": {"kind": "hard", "report": "r", "jitter": 7},
}
GOLDEN = {
    "uniform": "4cfb0f14b11c8269",
    "scaled": "03a91080fb6077a7",
    "valid": "6e32281143e2e0d1",
    "local": "54b8ca9f0191a4bb",
    "local_scaled": "1f7e45ef63fac82e",
    "local_valid": "086be3305f7c4ec1",
    "grid": "2bb0495a9240c64b",
    "grid_scene": "d13b338c715a78ef",
    "grid_valid": "54f53a74017194fd",
    "balanced": "9734f92ee635eab2",
    "balanced_scene": "a5e73e2b83e2ed39",
    "foreground": "ff93b337b0112ff0",
    "hard": "f552c88e7be062aa",
}


def order(world: World = WORLD, seed: int = 0, shapes: Any = None, **section: Any) -> Order:
    sampling = ANY.validate_python({"kind": "uniform", "size": 32, **section})
    presence = PRESENCE if world is WORLD else world.presence(8)
    return Order(
        shapes or world.shapes,
        sampling,
        "digest",
        seed,
        presence=presence if needed(sampling) else None,
        class_names=NAMES,
        worst=WORST if isinstance(sampling, Hard) else (),
    )


def chips(plan: Order, count: int | None = None) -> list[ChipRef]:
    return [plan.chip(number) for number in range(count or plan.epoch_size)]


def share_with(refs: list[ChipRef], *classes: int, world: World = WORLD) -> float:
    return float(np.mean([np.isin(world.at(ref), classes).any() for ref in refs]))


# ---------------------------------------------------------------------------------------------- what all kinds keep


@pytest.mark.parametrize("kind", KINDS)
def test_windows_stay_inside_and_are_of_the_size(kind: str) -> None:
    section = KINDS[kind]
    low, high = section.get("scale", (1, 1))
    sides = set()
    for ref in chips(order(**section), 700):
        height, width, slices = WORLD.shapes[ref.scene]
        window = ref.window
        assert window.height == window.width
        assert round(32 * low) <= window.height <= round(32 * high)
        sides.add(window.height)
        assert 0 <= window.slice < slices
        assert 0 <= window.row <= max(0, height - window.height)
        assert 0 <= window.col <= max(0, width - window.width)
    assert len(sides) > 5 or "scale" not in section


ORDERS = {kind: order(**section) for kind, section in KINDS.items()}
for travelled in ORDERS.values():
    chips(travelled, 100)


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(0, 10**12))
@settings(max_examples=40, deadline=None)
def test_a_chip_does_not_depend_on_what_was_asked_before(kind: str, number: int) -> None:
    fresh = order(**KINDS[kind]).chip(number)
    assert fresh == ORDERS[kind].chip(number)
    assert (fresh.number, *divmod(number, ORDERS[kind].epoch_size)) == (number, fresh.epoch, fresh.index)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_order_is_the_same(kind: str) -> None:
    plan = order(**KINDS[kind])
    assert chips(pickle.loads(pickle.dumps(plan)), 50) == chips(plan, 50)
    assert chips(order(seed=1, **KINDS[kind]), 50) != chips(plan, 50)


def test_another_process_draws_the_same() -> None:
    code = (
        "from tests.data.chips.sampling.test_window_draw import KINDS, chips, order\n"
        "print({kind: [tuple(r.window) + (r.scene,) for r in chips(order(**s), 20)] for kind, s in KINDS.items()})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ours = {kind: [(*r.window, r.scene) for r in chips(order(**s), 20)] for kind, s in KINDS.items()}
    assert told.strip() == str(ours)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_never_changes(kind: str) -> None:
    """Runs of other versions go on with the same chips."""
    refs = [ORDERS[kind].chip(i) for i in [*range(300), *range(10**6, 10**6 + 790_000, 7919)]]
    told = [[ref.number, ref.epoch, ref.index, ref.scene, *ref.window, *(ref.block or ())] for ref in refs]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == GOLDEN[kind]


@pytest.mark.parametrize("kind", ["uniform", "scaled", "valid", "local", "balanced"])
def test_epochs_differ(kind: str) -> None:
    plan = order(**KINDS[kind])
    first, second = chips(plan), [plan.chip(plan.epoch_size + i) for i in range(plan.epoch_size)]
    assert [r.window for r in first] != [r.window for r in second]
    assert {r.epoch for r in second} == {1}


# ------------------------------------------------------------------------------------------------------ uniform


def test_area_counts_all_slices() -> None:
    plan = order(shapes=[(64, 64, 5), (64, 64, 15)])
    refs = chips(plan)
    assert plan.epoch_size == 20 + 60
    assert Counter(ref.scene for ref in refs) == {0: 20, 1: 60}
    assert {ref.window.slice for ref in refs if ref.scene == 1} <= set(range(15))
    assert len({ref.window.slice for ref in refs if ref.scene == 1}) > 10


def test_scales_are_uniform() -> None:
    sides = [ref.window.height for ref in chips(order(size=100, scale=(0.5, 2.0), shapes=[(999, 999)]), 3000)]
    counts, _ = np.histogram(sides, bins=10, range=(50, 200))
    assert counts.min() > 240 and counts.max() < 360


# ---------------------------------------------------------------------------------------------------- min_valid


def test_windows_are_valid_enough_where_they_can_be() -> None:
    shares = [PRESENCE.valid_share(r.scene, r.window) for r in chips(order(min_valid=0.9), 1500) if r.scene != 3]
    assert min(shares) >= 0.9
    without = [PRESENCE.valid_share(r.scene, r.window) for r in chips(order(), 1500) if r.scene != 3]
    assert np.mean(np.array(without) < 0.9) > 0.1


def test_scenes_are_drawn_by_their_valid_area() -> None:
    full, empty, half = (np.zeros((1, 128, 128), np.uint8) for _ in range(3))
    empty[:] = IGNORE
    half[:, :64] = IGNORE
    refs = chips(order(World([full, empty, half]), min_valid=0.5))
    assert Counter(ref.scene for ref in refs) == {0: 16, 2: 8}


def test_a_speck_of_annotation_is_found() -> None:
    mask = np.full((1, 2000, 2000), IGNORE, np.uint8)
    mask[0, 1700:1712, 300:312] = 1
    world = World([mask])
    refs = chips(order(world, min_valid=0.5, epoch_size=50))
    found = [(world.at(ref) != IGNORE).sum() for ref in refs]
    assert min(found) > 0  # nothing reaches one half: the best is taken
    assert np.mean(found) > 70


def test_nothing_valid_is_an_error() -> None:
    with pytest.raises(ManifestError, match=r"no window of the train split has data\.sampling\.min_valid 0\.5"):
        order(World([np.full((1, 64, 64), IGNORE, np.uint8)]), min_valid=0.5)


def test_an_index_is_needed_and_must_fit() -> None:
    section = Foreground(size=32)
    with pytest.raises(ManifestError, match="needs an index of the classes"):
        Order(WORLD.shapes, section, "d", 0)
    with pytest.raises(ManifestError, match="is of other scenes"):
        Order(WORLD.shapes[:2], section, "d", 0, presence=PRESENCE)
    with pytest.raises(ManifestError, match="cells of 8 pixels"):
        Order(WORLD.shapes, Foreground(size=4), "d", 0, presence=PRESENCE)


# --------------------------------------------------------------------------------------------------------- grid


@pytest.mark.parametrize("epoch_size", [None, 7, 1000])
def test_every_window_of_the_grid_comes_once(epoch_size: int | None) -> None:
    plan = order(kind="grid", overlap=0.3, epoch_size=epoch_size)
    expected = {
        (number, window._replace(slice=level))
        for number, (height, width, slices) in enumerate(WORLD.shapes)
        for window in cover(height, width, 32, 0.3)
        for level in range(slices)
    }
    first = chips(plan, len(expected))
    second = [plan.chip(len(expected) + i) for i in range(len(expected))]
    assert {(ref.scene, ref.window) for ref in first} == {(ref.scene, ref.window) for ref in second} == expected
    assert [r.window for r in first] != [r.window for r in second]
    assert plan.epoch_size == (epoch_size or len(expected))


def test_jitter_moves_windows_of_the_grid_a_little() -> None:
    exact = {(r.scene, r.window.slice, r.window.row, r.window.col) for r in chips(order(kind="grid"))}
    moves = []
    for ref in chips(order(kind="grid", jitter=3)):
        near = [
            (ref.window.row - row, ref.window.col - col)
            for scene, level, row, col in exact
            if (scene, level) == (ref.scene, ref.window.slice)
            and max(abs(ref.window.row - row), abs(ref.window.col - col)) <= 3
        ]
        assert near
        moves.append(near[0])
    assert {down for down, _ in moves} == {right for _, right in moves} == set(range(-3, 4))


def test_a_grid_can_give_scenes_alike() -> None:
    counts = Counter(ref.scene for ref in chips(order(kind="grid", weight="scene", epoch_size=100)))
    assert counts == dict.fromkeys(range(5), 20)


def test_windows_of_the_grid_that_are_not_valid_are_left_out() -> None:
    plan = order(kind="grid", min_valid=0.5)
    expected = {
        (number, window._replace(slice=level))
        for number, (height, width, slices) in enumerate(WORLD.shapes)
        for window in cover(height, width, 32)
        for level in range(slices)
        if PRESENCE.valid_share(number, window._replace(slice=level)) >= 0.5
    }
    assert {(ref.scene, ref.window) for ref in chips(plan)} == expected
    assert plan.epoch_size == len(expected) < order(kind="grid").epoch_size


# ------------------------------------------------------------------------------------- balanced and foreground


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
@pytest.mark.parametrize("section", [{"kind": "foreground"}, {"kind": "balanced", "classes": ["rare"]}])
def test_the_share_is_as_asked(section: dict[str, Any], share: float) -> None:
    """Drawn ones always contain the class, the others as often as uniform windows do."""
    held = (1, 2) if section["kind"] == "foreground" else (2,)
    by_chance = share_with(chips(order(size=16), 6000), *held)
    measured = share_with(chips(order(size=16, share=share, **section), 4000), *held)
    assert measured == pytest.approx(share + (1 - share) * by_chance, abs=0.03)
    assert by_chance < 0.5


def test_each_class_comes_equally_often() -> None:
    mask = np.zeros((1, 512, 512), np.uint8)
    mask[0, 100:300, 100:300] = 1
    mask[0, 450:455, 450:455] = 2
    world = World([mask])
    refs = chips(order(world, kind="balanced", share=1.0, size=16, epoch_size=900))
    assert share_with(refs, 2, world=world) == pytest.approx(1 / 3, abs=0.01)
    assert share_with(refs, 1, world=world) == pytest.approx(1 / 3, abs=0.06)


def test_windows_lie_anywhere_about_what_they_contain() -> None:
    mask = np.zeros((1, 1000, 1000), np.uint8)
    mask[0, 500, 500] = 2
    world = World([mask])
    refs = chips(order(world, kind="balanced", classes=["rare"], share=1.0, size=64, epoch_size=2000))
    rows, cols = np.array([500 - r.window.row for r in refs]), np.array([500 - r.window.col for r in refs])
    for places in (rows, cols):
        assert places.min() <= 5 and places.max() >= 58
        assert np.histogram(places, bins=4, range=(4, 60))[0].min() > 400


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_all_windows_about_a_part_and_no_others(data: st.DataObject) -> None:
    height, width, size = (data.draw(st.integers(1, 40)) for _ in range(3))
    tall, wide = (data.draw(st.integers(1, min(size, length))) for length in (height, width))
    part = Window(data.draw(st.integers(0, height - tall)), data.draw(st.integers(0, width - wide)), tall, wide, 3)

    def fits(row: int, col: int) -> bool:
        holds = row <= part.row and part.row + tall <= row + size and col <= part.col and part.col + wide <= col + size
        return holds and row <= max(0, height - size) and col <= max(0, width - size)

    expected = {(row, col) for row in range(part.row + 1) for col in range(part.col + 1) if fits(row, col)}
    steps = [step << 64 - 6 for step in range(64)]  # more than there are positions
    drawn = {around(Shape(height, width), part, size, Words(down, right)) for down in steps for right in steps}
    assert {(window.row, window.col) for window in drawn} == expected
    assert {window[2:] for window in drawn} == {(size, size, 3)}


def test_cells_are_drawn_alike_over_the_split_or_scenes_are() -> None:
    one, many = np.zeros((1, 256, 256), np.uint8), np.zeros((1, 256, 256), np.uint8)
    one[0, 128, 128] = 1
    many[0, :72, :64] = 1  # 9 * 8 cells of 8 pixels
    world = World([one, many])
    section = {"kind": "foreground", "share": 1.0, "epoch_size": 8000}
    by_cell = Counter(ref.scene for ref in chips(order(world, **section)))
    by_scene = Counter(ref.scene for ref in chips(order(world, weight="scene", **section)))
    assert by_cell[0] == pytest.approx(8000 / 73, rel=0.3)
    assert by_scene[0] == pytest.approx(4000, rel=0.1)


def test_classes_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    world = World([np.zeros((1, 64, 64), np.uint8)])
    with pytest.raises(RecipeError, match=r"data\.sampling\.classes: there is no class roads"):
        order(world, kind="balanced", classes=["roads"])
    with pytest.raises(ManifestError, match="no mask of the train split holds common or rare"):
        order(world, kind="balanced", classes=["common", "rare"])
    with pytest.raises(ManifestError, match="no mask of the train split holds foreground"):
        order(world, kind="foreground")
    order(world, kind="balanced")
    assert "no mask of the train split holds common, rare: windows are not drawn for it" in caplog.text


# --------------------------------------------------------------------------------------------------------- hard


def report(folder: Path, examples: list[Any]) -> str:
    (folder / "report.json").write_text(json.dumps({"examples": examples}))
    return str(folder)


def test_a_share_lies_on_the_worst_windows(tmp_path: Path) -> None:
    examples = [
        {"kind": "best", "scene": "s0", "window": [0, 0, 32, 32]},
        {"kind": "worst", "scene": "s2", "window": [50, 60, 32, 32, 1]},
        {"kind": "worst", "scene": "elsewhere", "window": [0, 0, 32, 32]},
        {"kind": "worst", "scene": "s0", "window": [0, 100, 40, 32]},
    ]
    worst = worst_windows(report(tmp_path, examples), WORLD.scenes)
    assert worst == (Worst(2, Window(50, 60, 32, 32, 1)), Worst(0, Window(0, 100, 40, 32)))
    section = Hard(size=32, report=str(tmp_path), share=0.5, jitter=4, epoch_size=1000)
    refs = chips(Order(WORLD.shapes, section, "d", 0, worst=worst))
    on = [0, 0]
    for ref in refs:
        for position, (scene_number, window) in enumerate(
            ((2, Window(50, 60, 32, 32, 1)), (0, Window(4, 100, 32, 32)))
        ):
            near = abs(ref.window.row - window.row) <= 4 and abs(ref.window.col - window.col) <= 4
            on[position] += near and ref.scene == scene_number and ref.window.slice == window.slice
    assert 250 <= on[0] <= 270 and 250 <= on[1] <= 270


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (None, "there is no report at"),
        ([{"kind": "worst"}], r"is damaged \(no 'scene'\)"),
        (
            [{"kind": "worst", "scene": "x", "window": [0, 0, 1, 1]}],
            "has 1 worst windows, of which none lies in a scene",
        ),
    ],
)
def test_reports_that_do_not_help(tmp_path: Path, examples: Any, message: str) -> None:
    uri = str(tmp_path) if examples is None else report(tmp_path, examples)
    with pytest.raises((ManifestError, DamagedError), match=message):
        worst_windows(uri, [scene("s0", 9, 9)])


# ----------------------------------------------------------------------------------------------------- locality

LOCAL = {"locality": {"tile": 32, "tiles": 3, "chips": 4, "pool": 5}}


@pytest.mark.parametrize("kind", ["local", "local_scaled", "local_valid"])
def test_windows_lie_in_blocks_of_few_tiles(kind: str) -> None:
    tile, tiles = (KINDS[kind]["locality"][key] for key in ("tile", "tiles"))
    for ref in chips(order(**KINDS[kind])):
        block, window = ref.block, ref.window
        height, width, _ = WORLD.shapes[ref.scene]
        assert block is not None and block.slice == window.slice
        assert block.row % tile == block.col % tile == 0
        assert block.height <= tile * tiles and block.width <= tile * tiles
        assert (block.row + block.height) % tile == 0 or block.row + block.height == height
        assert (block.col + block.width) % tile == 0 or block.col + block.width == width
        assert block.row <= window.row and block.col <= window.col
        assert min(window.row + window.height, height) <= block.row + block.height
        assert min(window.col + window.width, width) <= block.col + block.width


def test_chips_of_a_block_come_within_a_pool() -> None:
    plan = order(**LOCAL, epoch_size=203, shapes=[(3000, 4000), (2000, 2000)])
    assert plan.epoch_size == 204 and plan.span == 20
    where: dict[Any, list[int]] = {}
    for number in range(3 * plan.epoch_size):
        ref = plan.chip(number)
        where.setdefault((ref.epoch, ref.scene, ref.block), []).append(number)
        assert number in plan.pool(number)
    pools = {plan.pool(n) for n in range(3 * plan.epoch_size)}
    assert sorted(n for pool in pools for n in pool) == list(range(3 * plan.epoch_size))
    assert {len(pool) for pool in pools} == {20, 4}
    split = sum(len({plan.pool(n) for n in numbers}) > 1 for numbers in where.values())
    assert split < len(where) / 10  # only where two groups happen to draw the same block


def test_scenes_are_met_as_often_as_without_blocks() -> None:
    with_blocks, without = (
        Counter(ref.scene for ref in chips(order(epoch_size=240, **section))) for section in (LOCAL, {})
    )
    assert with_blocks == without


@pytest.mark.parametrize("origin", [(0, 0), (7, 45)])
def test_positions_are_uniform_also_at_the_edges(origin: tuple[int, int]) -> None:
    """Chi-square of rows and columns, 99.9 % quantile; a group's chips are not independent, so one of each counts."""
    plan = order(
        shapes=[(40, 200, 1, *origin)], locality={"tile": 16, "tiles": 4, "chips": 4, "pool": 5}, epoch_size=40_000
    )
    first: dict[int, Window] = {}
    for number in range(plan.epoch_size):
        ref = plan.chip(number)
        assert ref.block is not None
        assert (ref.block.col + origin[1]) % 16 == 0 or ref.block.col == 0
        first.setdefault((number // plan.span, ref.block), ref.window)
    rows, cols = (np.bincount([w[axis] for w in first.values()], minlength=n) for axis, n in ((0, 9), (1, 169)))
    assert ((rows - rows.mean()) ** 2 / rows.mean()).sum() < 26.1
    assert ((cols - cols.mean()) ** 2 / cols.mean()).sum() < 230


def test_blocks_lie_where_enough_is_valid() -> None:
    mask = np.zeros((1, 600, 600), np.uint8)
    mask[0, :, 200:] = IGNORE
    world = World([mask])
    section = {"locality": {"tile": 32, "tiles": 3, "chips": 4, "pool": 5}, "epoch_size": 400}
    shares = {
        least: [(world.at(ref) != IGNORE).mean() for ref in chips(order(world, min_valid=least, **section))]
        for least in (0.0, 0.7)
    }
    assert np.mean(np.array(shares[0.0]) >= 0.7) < 0.4
    assert np.mean(np.array(shares[0.7]) >= 0.7) > 0.9


def test_blocks_hold_all_chips_and_are_fewer() -> None:
    plan = order(**LOCAL)
    numbers = range(40)
    found = plan.blocks(numbers)
    assert sorted(ref.number for block in found for ref in block.refs) == list(numbers)
    assert all(ref == plan.chip(ref.number) for block in found for ref in block.refs)
    assert all(ref.block == block.window and ref.scene == block.scene for block in found for ref in block.refs)
    assert len(found) < 20
    assert len(order().blocks(numbers)) == 40


def test_small_scenes_are_not_drawn_several_times_for_a_block() -> None:
    refs = chips(order(shapes=[(32, 32)] * 60, **LOCAL))
    assert Counter(ref.scene for ref in refs) == dict.fromkeys(range(60), 1)


# ------------------------------------------------------------------------------------------------------- recipe


def test_another_kind_keeps_what_both_have(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, **{"data.sampling.weight": "scene", "data.sampling.locality": {"pool": 3}})
    changed = replace(recipe, ["data.sampling.kind=grid", "data.sampling.overlap=0.5"]).data.sampling
    assert changed == GridSampling(size=32, weight="scene", overlap=0.5)
    changed = replace(recipe, ["data.sampling.kind=balanced", "data.sampling.classes=[disc]"]).data.sampling
    assert changed == Balanced(size=32, weight="scene", classes=["disc"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scale": (2.0, 0.5)}, "a least and a largest multiple are needed"),
        ({"scale": (0.001, 1)}, "the smallest windows have no pixel"),
        ({"locality": {"tiles": 1}}, "windows of 32 pixels need blocks of 2 tiles of 512 pixels"),
        ({"kind": "grid", "overlap": 1}, "less than 1"),
        ({"kind": "balanced", "classes": []}, "at least 1 item"),
        ({"kind": "hard"}, "report"),
    ],
)
def test_what_cannot_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ANY.validate_python({"kind": "uniform", "size": 32, **section})


def test_plain_uniform_needs_no_index() -> None:
    assert not needed(Uniform())
    assert needed(Uniform(min_valid=0.1)) and needed(Balanced()) and needed(Foreground())
