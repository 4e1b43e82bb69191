"""Which scenes of two splits share ground, against counting pixels."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import CRS

from pipeline.data.scenes.scene import Scene
from pipeline.data.scenes.splits.assign import Overlap, overlaps
from tests.data.scenes.masks_world import scene
from tests.factory import UTM

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def at(name: str, split: str, x: float, y: float, size: int = 100, pixel: float = 1.0, **changes: Any) -> Scene:
    fields = {"crs": UTM, "transform": (pixel, 0.0, x, 0.0, -pixel, y), "split": split}
    return scene(name, size, size, **fields | changes)


def pairs(*scenes: Scene) -> list[tuple[str, str, str]]:
    return [(o.first, o.second, o.why) for o in overlaps(scenes)]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(30, 60), st.integers(1, 30), st.integers(1, 30)), max_size=9),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_all_pairs_that_share_a_pixel_and_no_others(places: list[tuple[int, ...]], data: st.DataObject) -> None:
    scenes, maps = [], []
    for i, (x, y, height, width) in enumerate(places):
        split = data.draw(st.sampled_from(["train", "val", "test"]))
        # Coordinates in the millions, as real ones are.
        transform = (0.3, 0.0, 500_000 + 0.3 * x, 0.0, -0.3, 5_000_000 + 0.3 * y)
        scenes.append(scene(f"s{i}", height, width, crs=UTM, transform=transform, split=split))
        pixels = np.zeros((120, 120), bool)
        pixels[60 - y + 30 : 60 - y + 30 + height, x : x + width] = True
        maps.append(pixels)
    expected = []
    for i, j in itertools.combinations(range(len(scenes)), 2):
        common = (maps[i] & maps[j]).sum()
        if common and scenes[i].split != scenes[j].split:
            expected.append((f"s{i}", f"s{j}", pytest.approx(common / min(maps[i].sum(), maps[j].sum()), abs=0.05)))
    assert [(o.first, o.second, o.share) for o in overlaps(scenes)] == expected


def test_neighbours_that_touch_share_nothing() -> None:
    assert pairs(at("a", "train", 0, 100), at("b", "test", 100, 100), at("c", "val", 100, 0)) == []
    assert pairs(at("a", "train", 0, 100), at("b", "test", 99.9, 100)) == [("a", "b", "ground")]


def test_turned_scenes_are_compared_as_they_lie() -> None:
    diamond = at(
        "a", "train", 0, 0, transform=(0.5, 0.5, 0.0, 0.5, -0.5, 0.0)
    )  # corners (0,0) (50,50) (100,0) (50,-50)
    assert pairs(diamond, at("b", "test", 1, 49, size=20)) == []
    assert pairs(diamond, at("b", "test", 1, 10, size=20)) == [("a", "b", "ground")]


def test_other_coordinate_systems_on_the_same_ground() -> None:
    """12 degrees east, 48 north lies in UTM zones 32 and 33."""
    west = at("a", "train", 723_750, 5_320_680, crs="EPSG:32632")
    east = at("b", "test", 276_000, 5_320_700, size=300, crs="EPSG:32633")
    degrees = at("c", "val", 12.0, 48.0, pixel=1e-5, crs="EPSG:4326")
    far = at("d", "val", 13.0, 48.0, pixel=1e-5, crs="EPSG:4326")
    found = overlaps([west, east, degrees, far])
    assert [(o.first, o.second) for o in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(0 < o.share <= 1 for o in found)
    text = CRS.from_epsg(32632).to_wkt()
    assert pairs(west, at("b", "test", 723_849, 5_320_680, crs=text)) == [("a", "b", "ground")]
    assert pairs(west, at("b", "test", 723_850, 5_320_680, crs=text)) == []


def test_both_sides_of_the_date_line() -> None:
    """UTM zones 60 and 1 meet at 180 degrees."""
    west = at("a", "train", 833_000, 10_000, size=200, pixel=10, crs="EPSG:32660")
    east = at("b", "test", 166_000, 10_000, size=200, pixel=10, crs="EPSG:32601")
    elsewhere = at("c", "test", 500_000, 10_000, size=200, pixel=10, crs="EPSG:32601")
    assert pairs(west, east, elsewhere) == [("a", "b", "ground")]
    behind = at("d", "test", 166_100, 10_000, size=50, pixel=10, crs="EPSG:32601")  # none of it before the line
    assert pairs(west, behind) == [("a", "d", "ground")]


def test_parts_of_one_file_without_coordinates() -> None:
    def part(name: str, split: str, row: int, col: int, **changes: Any) -> Scene:
        return scene(name, 50, 50, split=split, origin=(row, col), stamp="same", **{"image": "f.tif"} | changes)

    assert pairs(part("a", "train", 0, 0), part("b", "test", 0, 50), part("c", "val", 50, 0)) == []
    assert pairs(part("a", "train", 0, 0), part("b", "test", 49, 49)) == [("a", "b", "ground")]
    copies = part("a", "train", 0, 0), part("b", "test", 0, 0, image="copy.tif")
    assert pairs(*copies) == [("a", "b", "content")]


def test_equal_content_in_two_splits() -> None:
    same = {"stamp": "x", "crs": None, "transform": IDENTITY}
    a, b, c = at("a", "train", 0, 0, **same), at("b", "train", 0, 0, **same), at("c", "test", 0, 0, **same)
    assert overlaps([c, a, b]) == [
        Overlap("a", "c", ("train", "test"), "content", 1.0),
        Overlap("b", "c", ("train", "test"), "content", 1.0),
    ]


def test_a_mosaic_of_many_scenes_is_quick() -> None:
    """Twenty thousand neighbours; one pair of them overlaps."""
    scenes = [at(f"s{i}", ("train", "test")[i % 7 == 0], 100 * (i % 141), 100 * (i // 141)) for i in range(20_000)]
    scenes.append(at("extra", "val", 300, 350))
    began = time.process_time()
    found = overlaps(scenes)
    assert time.process_time() - began < 20
    assert {(o.first, o.second) for o in found} == {("extra", f"s{r * 141 + 3}") for r in (3, 4)}
