"""Windows that cannot be read, and files that changed, while training goes on."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import freshness
from pipeline.data.batches import Batch, local_batches
from pipeline.data.chips import Plan
from pipeline.data.indexing.inspection import look_at
from pipeline.data.quarantine import Replaced, Tally
from pipeline.data.scenes import Found
from pipeline.data.windows import Window
from pipeline.errors import SceneError
from pipeline.world import World
from tests.data.feed_world import AUGMENT, plan
from tests.factory import write_raster


def damaged(folder: Path, most: int = 500, **options: Any) -> Plan:
    """One of four scenes is gone."""
    source = plan(folder, **options)
    Path(source.scenes[1].image).unlink()
    data = source.data.model_dump() | {"on_error": {"kind": "quarantine", "max": most}}
    return replace(source, data=source.data.model_validate(data))


def feed(source: Plan, start: int = 0, stop: int = 30) -> list[Batch]:
    return list(local_batches(source, World(), global_batch=2, start_step=start, stop_step=stop, threads=3))


def test_a_window_that_cannot_be_read_is_replaced_and_named(tmp_path: Path) -> None:
    source = damaged(tmp_path, augment=AUGMENT)
    batches = feed(source)
    lost = [n for n in range(60) if source.order.chip(n).scene == 1]
    found = [one for batch in batches for one in batch.replaced]
    assert [one.number for one in found] == lost
    assert all("s1.tif" in one.reason and one.scene == "s1" for one in found)
    assert [one.window for one in found] == [source.order.chip(n).window for n in lost]


def test_what_replaces_it_depends_on_the_number_alone(tmp_path: Path) -> None:
    source = damaged(tmp_path, augment=AUGMENT)
    whole = feed(source)
    later = feed(source, start=7)
    for one, other in zip(whole[7:], later, strict=True):
        assert np.array_equal(one.image.numpy(), other.image.numpy())
        assert np.array_equal(one.mask.numpy(), other.mask.numpy())
    first = next(batch for batch in whole if batch.replaced)
    number = first.replaced[0].number
    assert np.array_equal(source.chip(number)[0], first.image[first.numbers.index(number)].numpy())


def test_other_chips_are_what_they_were(tmp_path: Path) -> None:
    intact = plan(tmp_path / "a", augment=AUGMENT)
    broken = damaged(tmp_path / "b", augment=AUGMENT)
    for number in range(40):
        if intact.order.chip(number).scene != 1:
            assert np.array_equal(intact.chip(number)[0], broken.chip(number)[0])


def test_too_many_end_the_work(tmp_path: Path) -> None:
    source = damaged(tmp_path, most=2)
    with pytest.raises(SceneError, match=r"3 windows could not be read, more than data\.on_error allows") as caught:
        feed(source, stop=500)
    assert caught.value.message.count("s1.tif") == 3


def test_without_quarantine_the_first_one_does(tmp_path: Path) -> None:
    source = plan(tmp_path)
    Path(source.scenes[1].image).unlink()
    with pytest.raises(SceneError, match=r"s1\.tif"):
        feed(source)


def test_nothing_left_to_read_is_an_error(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    for one in source.scenes:
        Path(one.image).unlink(missing_ok=True)
    with pytest.raises(SceneError, match="drawn in place of one that cannot be read"):
        source.chip(0)


def test_a_window_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    one = Replaced(3, "a", Window(1, 2, 8, 8), "broken")
    tally = Tally(1)
    tally.add([one])
    tally.add([one, replace(one, number=9)])
    assert len(tally) == 1
    assert tally.summary() == [{"scene": "a", "window": [1, 2, 8, 8, 0], "chip": 3, "reason": "broken"}]
    with pytest.raises(SceneError, match="2 windows"):
        tally.add([replace(one, scene="b")])


def indexed(source: Plan) -> Plan:
    """With what `index` notes of the files."""
    scenes = []
    for one in source.scenes:
        found = Found(one.id, one.image, one.label)
        stamp = look_at(found, source.classes, source.data).stamp
        scenes.append(replace(one, stamp=stamp, seen=freshness.seen(found.files)))
    return replace(source, scenes=tuple(scenes))


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_file_that_changed_since_it_was_indexed_is_refused(tmp_path: Path, which: str) -> None:
    source = indexed(plan(tmp_path))
    source.chip(0)
    path = Path(getattr(source.scenes[3], which))
    write_raster(path, np.full((4, 64, 64), 5, np.uint16) if which == "image" else np.zeros((64, 64), np.uint8))
    os.utime(path, (0, 0))
    freshness.forget()  # as in a new process
    with pytest.raises(SceneError, match="scene s3 has changed since it was indexed") as caught:
        source.stack(range(20))
    assert "segpipe index" in caught.value.hint


def test_a_copy_with_other_dates_is_the_same_data(tmp_path: Path) -> None:
    source = indexed(plan(tmp_path / "a"))
    wanted = source.stack(range(8))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    there = [
        replace(s, image=s.image.replace("/a/", "/b/"), label=(s.label or "").replace("/a/", "/b/"))
        for s in source.scenes
    ]
    moved = replace(source, scenes=tuple(there))
    for got, expected in zip(moved.stack(range(8)), wanted, strict=True):
        assert np.array_equal(got, expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = indexed(plan(tmp_path))
    Path(source.scenes[0].label or "").unlink()
    freshness.forget()
    with pytest.raises(SceneError, match=r"s0\.tif"):
        source.stack(range(20))
