"""Windows that cannot be read, and files that changed, while training goes on."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.chips import quarantine
from pipeline.data.chips.quarantine import NONE, FailureTally, LeftOut, Replaced
from pipeline.data.feed.batches import Batch, local_batches
from pipeline.data.feed.plan import Plan
from pipeline.data.rasters.windows import Window
from pipeline.data.scenes import staleness
from pipeline.data.scenes.inspection import inspect_scene
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import SceneError
from pipeline.world import World
from tests.data.feed.feed_world import AUGMENT, plan
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
    tally = FailureTally(source.tolerated)
    with pytest.raises(SceneError, match=r"\d+ windows could not be read, more than data\.on_error allows") as caught:
        for batch in feed(source, stop=500):
            tally.add(batch.replaced)
    assert caught.value.message.count("s1.tif") == len(tally) >= 3


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


ONE = Replaced(3, "a", Window(1, 2, 8, 8), "broken")


def test_a_window_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    tally = FailureTally(1)
    tally.add([ONE])
    tally.add([ONE, replace(ONE, number=9)])
    assert tally.windows == (ONE,)
    assert caplog.text.count("left out: scene a, row 1, column 2: broken") == 1
    with pytest.raises(SceneError, match="2 windows"):
        tally.add([replace(ONE, scene="b")])


def test_what_is_noted_counts_when_it_is_added() -> None:
    """In the order of the chips, and what belongs to none at the end, whoever noted it."""
    tally, other = FailureTally(9), FailureTally(9)
    tally.note([replace(ONE, number=NONE, scene="v"), replace(ONE, number=7, scene="b")])
    other.note([replace(ONE, number=5), ONE])
    assert not tally.windows
    tally.add([*other.take(), *tally.take()])
    assert [(w.number, w.scene) for w in tally.windows] == [(3, "a"), (7, "b"), (NONE, "v")]
    assert not tally.take()


def test_a_tally_survives_a_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    tally, again = FailureTally(2), FailureTally(2)
    tally.add([ONE, replace(ONE, number=NONE, window=Window(0, 0, 8, 8, 4))])
    rows = json.loads(json.dumps(tally.to_list()))
    caplog.clear()
    again.load(rows)
    assert again.windows == tally.windows
    again.add([ONE])
    assert not caplog.text
    with pytest.raises(SceneError, match="3 windows"):
        again.add([replace(ONE, scene="c")])


def test_what_a_run_left_out_is_kept_with_it(tmp_path: Path) -> None:
    found = LeftOut((("x", "no such file"),), (ONE,))
    quarantine.write(str(tmp_path), found)
    assert quarantine.read(str(tmp_path)) == found
    assert found.lines == ["scene x, all of it: no such file", "scene a, row 1, column 2: broken"]
    quarantine.write(str(tmp_path / "clean"), LeftOut())
    assert quarantine.read(str(tmp_path / "clean")) == LeftOut()
    assert not (tmp_path / "clean").exists()


def indexed(source: Plan) -> Plan:
    """With what `index` notes of the files."""
    scenes = []
    for one in source.scenes:
        found = SceneFiles(one.id, one.image, one.label)
        stamp = inspect_scene(found, source.classes, source.data).stamp
        scenes.append(replace(one, stamp=stamp, seen=staleness.seen(found.files)))
    return replace(source, scenes=tuple(scenes))


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_file_that_changed_since_it_was_indexed_is_refused(tmp_path: Path, which: str) -> None:
    source = indexed(plan(tmp_path))
    source.chip(0)
    path = Path(getattr(source.scenes[3], which))
    write_raster(path, np.full((4, 64, 64), 5, np.uint16) if which == "image" else np.zeros((64, 64), np.uint8))
    os.utime(path, (0, 0))
    staleness.forget()  # as in a new process
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
    staleness.forget()
    with pytest.raises(SceneError, match=r"s0\.tif"):
        source.stack(range(20))
