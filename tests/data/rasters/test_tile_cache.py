"""The cache on the node's disk: bounded, shared, and never believed without looking. Cells: the same pixels."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.rasters.dataset_pool import DatasetPool
from pipeline.data.rasters.tile_cache import TileCache
from pipeline.data.rasters.windows import Window
from pipeline.errors import StorageError
from pipeline.store import Cache


def entry_of(cache: Cache) -> Path:
    (path,) = cache.folder.glob("??/*")
    return path


def test_entries_are_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 10_000)
    assert cache.get("a") is None
    cache.put("a", b"abc")
    assert cache.get("a") == b"abc"
    assert Cache(tmp_path / "c", 10_000).get("a") == b"abc"


@pytest.mark.parametrize("damage", [b"", b"short", "cut", "flipped", "other"])
def test_a_damaged_entry_is_none(tmp_path: Path, damage: bytes | str) -> None:
    cache = Cache(tmp_path / "c", 10_000)
    cache.put("a", b"abc" * 100)
    path = entry_of(cache)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-1]
    elif damage == "flipped":
        data[-7] ^= 1
    elif damage == "other":
        cache.put("b", b"of another name")
        (other,) = set(cache.folder.glob("??/*")) - {path}
        data = bytearray(other.read_bytes())
    else:
        data = bytearray(damage)  # type: ignore[arg-type]
    path.write_bytes(data)
    assert cache.get("a") is None
    assert not path.exists(), "it would be looked at again"
    cache.put("a", b"new")
    assert cache.get("a") == b"new"


def test_the_bound_holds_and_what_is_used_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 50_000)
    cache.put("used", b"u" * 1000)
    for number in range(200):
        cache.put(str(number), bytes(1000))
        for path in cache.folder.glob("??/*"):  # as if minutes passed
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 100))
        assert cache.get("used") is not None, number
        assert cache.total() <= 50_000 + 1100
    assert cache.get("0") is None and cache.get("199") is not None


def _fill(folder: str, seed: int) -> int:
    cache = Cache(Path(folder), 300_000)
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(300):
        name = str(rng.integers(150))
        content = name.encode() * int(2000 + int(name))
        found = cache.get(name)
        wrong += found is not None and found != content
        if found is None:
            cache.put(name, content)
    return wrong


def test_processes_share_it(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        assert list(pool.map(_fill, [str(tmp_path / "c")] * 3, range(3))) == [0, 0, 0]
    cache = Cache(tmp_path / "c", 300_000)
    assert cache.total() <= 300_000 + 3 * 10_000
    counted = int((cache.folder / "total").read_text())
    assert abs(counted - cache.total()) <= 3 * 10_000


def test_a_lost_count_is_found_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 20_000)
    for number in range(10):
        cache.put(str(number), bytes(1000))
    (cache.folder / "total").write_text("nonsense")
    for number in range(10, 60):
        cache.put(str(number), bytes(1000))
    assert cache.total() <= 31_000


def test_a_full_disk_ends_the_writing_not_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path / "c", 10_000)
    cache.put("a", b"abc")
    entry_of(cache).parent.rename(tmp_path / "away")
    for name in {path.name for path in (tmp_path / "away").iterdir()}:
        (cache.folder / f"{name[:0]}x").touch()
    for number in range(256):  # a file where each folder would be: no entry can be placed
        (cache.folder / f"{number:02x}").touch()
    cache.put("b", b"abc")
    cache.put("c", b"abc")
    assert cache.get("b") is None
    assert len([r for r in caplog.records if "takes no more" in r.message]) == 1


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot hold a cache"):
        Cache(tmp_path / "file" / "c", 10)


def test_left_over_temporary_files_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 1000)
    (cache.folder / "ab").mkdir()
    old = cache.folder / "ab" / "x.tmp"
    old.write_bytes(b"x")
    os.utime(old, (0, time.time() - 7200))
    cache.put("a", bytes(2000))
    assert not old.exists()


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 60_000, (2, height, width)).astype(np.uint16), rng.random((height, width)) < 0.9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([0, 16, 100, 256, 300, 5000]), st.integers(0, 2**30))
def test_windows_of_cells_are_the_rasters(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, tile: int, seed: int
) -> None:
    pixels, valid = scene(height, width)
    cells = TileCache("x", height, width, (tile, tile))
    cache = Cache(tmp_path_factory.mktemp("c"), 10**9)
    rng = np.random.default_rng(seed)
    asked: list[Window] = []

    def source(area: Window) -> tuple[np.ndarray, np.ndarray]:
        assert min(area.row, area.col) >= 0 and area.row + area.height <= height and area.col + area.width <= width
        asked.append(area)
        rows, cols = slice(area.row, area.row + area.height), slice(area.col, area.col + area.width)
        return pixels[:, rows, cols], valid[rows, cols]

    for _ in range(3):
        row, col = int(rng.integers(height)), int(rng.integers(width))
        window = Window(row, col, int(rng.integers(1, height - row + 1)), int(rng.integers(1, width - col + 1)))
        for times in range(2):
            before = len(asked)
            got, known = cells.read(window, cache, source)
            rows, cols = slice(row, row + window.height), slice(col, col + window.width)
            np.testing.assert_array_equal(got, pixels[:, rows, cols])
            np.testing.assert_array_equal(known, valid[rows, cols])
            assert len(asked) - before <= 1
            assert times == 0 or len(asked) == before, "it was there"


def test_slices_of_a_volume_are_apart(tmp_path: Path) -> None:
    cells, cache = TileCache("x", 300, 300, (0, 0)), Cache(tmp_path / "c", 10**9)

    def source(area: Window) -> tuple[np.ndarray, np.ndarray]:
        return np.full((1, area.height, area.width), area.slice, np.int16), np.ones((area.height, area.width), bool)

    for _ in range(2):
        for number in (0, 5):
            assert (cells.read(Window(3, 3, 10, 10, number), cache, source)[0] == number).all()


class Handle:
    lock = threading.Lock()
    open_now = 0
    most = 0

    def __init__(self, uri: str) -> None:
        with Handle.lock:
            Handle.open_now += 1
            Handle.most = max(Handle.most, Handle.open_now)

    def close(self) -> None:
        with Handle.lock:
            Handle.open_now -= 1


@pytest.mark.parametrize("threads", [1, 8, 100])
def test_open_handles_are_bounded_over_all_threads(threads: int) -> None:
    Handle.open_now = Handle.most = 0
    handles = DatasetPool(Handle, 32, total=64)
    together = threading.Barrier(threads)

    def work(number: int) -> None:
        handles.get(f"s3://b/first{number}")
        together.wait()
        for scene in range(200):
            handles.get(f"s3://b/{number}/{scene}")
        together.wait()  # what a thread leaves behind, Python closes by itself

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert Handle.most <= max(64, 2 * threads)


@pytest.mark.slow
def test_memory_and_handles_are_flat_over_ten_thousand_scenes(tmp_path: Path) -> None:
    from pipeline.data.rasters.formats.gdal import open_gdal
    from pipeline.recipe.data import Reading
    from tests.factory import make_pixels, write_raster

    first = write_raster(tmp_path / "0.tif", make_pixels(3, 64, 64, "uint8"))
    for number in range(1, 10_000):
        os.link(first, tmp_path / f"{number}.tif")
    handles = DatasetPool(lambda uri: open_gdal(uri, uri, label=False, reading=Reading()), 32)

    def visit(count: int) -> tuple[int, int]:
        for number in range(count):
            handles.get(str(tmp_path / f"{number}.tif")).read(Window(0, 0, 64, 64))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    visit(1000)
    few, files_of_few = visit(10)
    many, files_of_many = visit(10_000)
    assert many - few < 20 << 20, "bytes"
    assert files_of_many - files_of_few <= 64
