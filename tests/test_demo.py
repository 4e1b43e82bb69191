"""The demo goes its whole way on a tiny world, in one process; a second time it uses what is there."""

from pathlib import Path

import pytest
from PIL import Image

from jobs.demo import demo
from pipeline.data.rasters import raster_io
from pipeline.data.scenes.synthetic import make_world

QUICK = [
    "compute.runner=local",
    "compute.feed=local",
    "compute.num_workers=1",
    "train.steps=2",
    "train.global_batch=2",
    "data.sampling.size=64",
]


def test_the_whole_way_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_world(tmp_path / "world", num_scenes=4, size=128)

    demo(tmp_path, QUICK)
    first = capsys.readouterr().out
    assert "2 steps on 1 workers" in first
    assert "demo version 1 promoted" in first
    assert list((tmp_path / "runs" / "demo" / "reports").glob("*/report.html"))
    grid = raster_io.describe(str(tmp_path / "maps" / "south_autumn.tif")).grid
    assert grid.difference(raster_io.describe(str(tmp_path / "world" / "images" / "south_autumn.tif")).grid) == ""
    assert Image.open(tmp_path / "maps" / "south_autumn.png").size == (3 * 128, 128)

    demo(tmp_path, QUICK)
    second = capsys.readouterr().out
    assert "is there already" in second
    assert "trained already" in second
    assert "version 1 is the champion already" in second
