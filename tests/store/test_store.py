"""The store: the same answers on a disk and on a real S3 server."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline import store
from pipeline.errors import DamagedError, StorageError
from tests.servers import S3


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty directory here, and one in a bucket."""
    if request.param == "local":
        return str(tmp_path / "base")
    server: S3 = request.getfixturevalue("s3_server")
    return server.uri("base")


def test_what_is_written_is_read(base: str) -> None:
    uri = store.join(base, "deep", "er", "x.bin")
    assert not store.exists(uri)
    store.write_bytes(uri, b"abc")
    store.write_bytes(uri, b"abcd")
    assert store.exists(uri)
    assert store.read_bytes(uri) == b"abcd"
    assert store.size_of(uri) == 4
    assert (store.read_start(uri, 2), store.read_start(uri, 9)) == (b"ab", b"abcd")
    store.write_bytes(store.join(base, "empty"), b"")
    assert store.read_start(store.join(base, "empty"), 2) == b""
    store.write_json(store.join(base, "x.json"), {"ä": [1, 2.5, None]})
    assert store.read_json(store.join(base, "x.json")) == {"ä": [1, 2.5, None]}


def test_listing(base: str) -> None:
    for name in ("b/2.tif", "a/1.tif", "a/deep/3.tif", "a/1.txt", "top.tif"):
        store.write_bytes(store.join(base, name), b"x")
    assert store.list_dirs(base) == ["a", "b"]
    assert store.list_files(base) == ["a/1.tif", "a/1.txt", "a/deep/3.tif", "b/2.tif", "top.tif"]
    assert store.glob("*/*.tif", root=base) == [store.join(base, n) for n in ("a/1.tif", "b/2.tif")]
    assert store.glob(store.join(base, "**/*.tif")) == [
        store.join(base, n) for n in ("a/1.tif", "a/deep/3.tif", "b/2.tif", "top.tif")
    ]
    assert store.glob(store.join(base, "a/1.tif")) == [store.join(base, "a/1.tif")]
    assert store.glob(store.join(base, "a")) == []
    assert store.glob(store.join(base, "*.png")) == []


def test_nothing_there(base: str) -> None:
    assert store.list_dirs(base) == []
    assert store.list_files(base) == []
    store.remove(base)
    for look in (store.read_bytes, store.read_json, store.size_of, store.stamp):
        with pytest.raises(FileNotFoundError):
            look(store.join(base, "missing"))
    with pytest.raises(FileNotFoundError):
        store.download_dir(base)


def test_stamp_changes_with_the_content(base: str) -> None:
    uri = store.join(base, "x")
    store.write_bytes(uri, b"one")
    first = store.stamp(uri)
    assert store.stamp(uri) == first
    time.sleep(0.02)
    store.write_bytes(uri, b"two")
    assert store.stamp(uri) != first


def test_directories_travel(base: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a.bin").write_bytes(b"a")
    (source / "mark.json").write_text("{}")
    target = store.join(base, "dir")
    store.write_bytes(store.join(target, "old"), b"old")
    store.upload_dir(source, target, last="mark.json")
    assert store.list_files(target) == ["mark.json", "sub/a.bin"]
    assert store.list_dirs(base) == ["dir"]
    copy = store.download_dir(target)
    assert (copy / "sub" / "a.bin").read_bytes() == b"a"
    assert store.download_dir(target) == copy
    store.remove(target)
    assert not store.exists(target)


def test_only_the_named_files_are_downloaded(s3_server: S3) -> None:
    uri = s3_server.uri("two")
    for name in ("wanted", "large"):
        store.write_bytes(store.join(uri, name), b"x")
    assert [p.name for p in store.download_dir(uri, names=("wanted",)).iterdir()] == ["wanted"]
    with pytest.raises(FileNotFoundError, match="absent"):
        store.download_dir(uri, names=("wanted", "absent"))


def test_a_new_version_is_downloaded_anew(s3_server: S3) -> None:
    uri = s3_server.uri("versions")
    store.write_bytes(store.join(uri, "x"), b"one")
    assert (store.download_dir(uri) / "x").read_bytes() == b"one"
    store.write_bytes(store.join(uri, "x"), b"two")
    assert (store.download_dir(uri) / "x").read_bytes() == b"two"


def test_writing_locally_is_atomic(tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    seen: set[int] = set()
    stop = threading.Event()
    store.write_bytes(uri, b"0" * 500_000)

    def look() -> None:
        while not stop.is_set():
            seen.add(len(store.read_bytes(uri)))

    reader = threading.Thread(target=look)
    reader.start()
    for size in range(500_000, 500_050):
        store.write_bytes(uri, b"1" * size)
    stop.set()
    reader.join()
    assert min(seen) >= 500_000
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_glob_leaves_out_hidden_files_and_takes_the_root_literally(tmp_path: Path) -> None:
    root = tmp_path / "set [1]"
    root.mkdir()
    for name in ("a.tif", "._a.tif"):
        (root / name).touch()
    assert store.glob("*.tif", root=str(root)) == [str(root / "a.tif")]
    assert store.glob(str(root / "a.tif")) == [str(root / "a.tif")]


def test_joining() -> None:
    assert store.join("a", "b", "c.tif") == "a/b/c.tif"
    assert store.join("s3://b/", "/k", "x") == "s3://b/k/x"
    assert store.join("/data", "/other") == "/other"
    assert store.join("/data", "s3://b/x") == "s3://b/x"
    assert store.join("/", "y") == "/y"
    assert store.join("", "y") == "y"
    assert store.is_local("a/b") and store.is_local("file:///a") and not store.is_local("s3://b/x")


def test_append(tmp_path: Path, s3_server: S3) -> None:
    uri = str(tmp_path / "deep" / "log")
    store.append_line(uri, "one")
    store.append_line(uri, "two\n")
    assert store.read_bytes(uri) == b"one\ntwo\n"
    with pytest.raises(StorageError, match="cannot be appended"):
        store.append_line(s3_server.uri("log"), "one")


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(str(tmp_path / "x"), float("nan"))


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DamagedError, match=r"x\.json is damaged"):
        store.read_json(str(tmp_path / "x.json"))


def test_wrong_secret_is_a_storage_error_that_names_the_endpoint(
    s3_server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with pytest.raises(StorageError) as caught:
        store.read_bytes(s3_server.uri("x"))
    assert caught.value.exit_code == 75
    assert s3_server.endpoint in caught.value.hint


def test_server_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(StorageError, match="s3://bucket/x"):
        store.read_bytes("s3://bucket/x")
    assert time.monotonic() - begin < 60


def test_unknown_scheme() -> None:
    with pytest.raises(StorageError, match="gs:// is not supported"):
        store.read_bytes("gs://bucket/x")
    with pytest.raises(StorageError, match="not supported"):
        store.gdal_path("ftp://example.com/x.tif")


def test_gdal_reads_from_the_same_server(s3_server: S3, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", width=4, height=3, count=1, dtype="uint8") as file:
        file.write(np.arange(12, dtype=np.uint8).reshape(1, 3, 4))
    uri = s3_server.uri("x.tif")
    store.upload_file(path, uri)
    options = {name: value for name, value in store.gdal_env().items() if name != "GDAL_CACHEMAX"}
    with rasterio.Env(**options), rasterio.open(store.gdal_path(uri)) as file:
        assert file.read(1).sum() == sum(range(12))


def test_gdal_paths() -> None:
    assert store.gdal_path("s3://b/k/x.tif") == "/vsis3/b/k/x.tif"
    assert store.gdal_path("https://example.com/x.tif") == "/vsicurl/https://example.com/x.tif"
    assert store.gdal_path("/data/x.tif") == "/data/x.tif"
    assert store.gdal_path("file:///data/x.tif") == "/data/x.tif"
    with pytest.raises(StorageError, match="virtual paths"):
        store.gdal_path("/vsicurl/http://example.com/x.tif")


def test_s3_works_in_a_forked_child(s3_server: S3) -> None:
    uri = s3_server.uri("x")
    store.write_bytes(uri, b"parent")
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(store.read_bytes, uri).result(timeout=60) == b"parent"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    """What is prepared in a private temporary directory is not private afterwards."""
    before = os.umask(0o027)
    try:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder)
            (local / "deep").mkdir(mode=0o700)
            private = local / "deep/a.bin"
            private.write_bytes(b"a")
            private.chmod(0o600)
            store.upload_dir(local, str(tmp_path / "bundle"))
            store.upload_file(private, str(tmp_path / "map.tif"))
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"bundle": 0o750, "bundle/deep": 0o750, "bundle/deep/a.bin": 0o640, "map.tif": 0o640}
