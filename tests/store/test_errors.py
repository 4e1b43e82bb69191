"""The store when servers throttle, hang up, forbid or only speak HTTP; and one section for all libraries."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import store
from pipeline.errors import StorageError
from pipeline.recipe.storage import Storage
from pipeline.store import errors
from tests.proxy import Remote, proxied
from tests.servers import S3


@pytest.mark.parametrize("fault", ["throttle", "reset", "cut"])
def test_what_passes_is_tried_again(proxy: Remote, s3_server: S3, fault: str) -> None:
    uri = s3_server.uri("x")
    content = os.urandom(3_000_000)
    store.write_bytes(uri, content)
    proxy.set(clear=1, **{fault: 2})
    assert store.read_bytes(uri) == content
    assert getattr(proxy.set(), fault) == 0, "it happened"
    if fault != "cut":
        proxy.set(clear=1, **{fault: 2})
        store.write_bytes(uri, content[:1000])
        assert store.size_of(uri) == 1000


def test_large_objects_travel_in_parts_also_over_a_bad_line(proxy: Remote, s3_server: S3, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(40_000_000))
    uri = s3_server.uri("large")
    proxy.set(clear=1, throttle=1, only="partNumber")
    store.upload_file(path, uri)
    parts = [line for line in proxy.set().lines if "partNumber" in line]
    assert len(parts) == 4, "three parts, one of them twice"
    assert "-3" in store.stamp(uri), "the ETag of three parts"
    assert store.local_file(uri).read_bytes() == path.read_bytes()


def test_throttling_without_end_is_a_storage_error_that_says_so(
    proxy: Remote, s3_server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3_server.uri("x")
    store.write_bytes(uri, b"x")
    proxy.set(throttle=1000)
    for look in (store.read_bytes, store.size_of):
        begin = time.monotonic()
        with pytest.raises(StorageError, match="slow down") as caught:
            look(uri)
        assert (caught.value.exit_code, time.monotonic() - begin < 60) == (75, True)
        assert "max_connections" in caught.value.hint


def test_forbidden_names_the_policy(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3_server.uri("x")
    store.write_bytes(uri, b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="does not allow to read") as caught:
        store.read_bytes(uri)
    assert "s3:GetObject" in caught.value.hint
    with pytest.raises(StorageError, match="does not allow to write") as caught:
        store.write_bytes(uri, b"y")
    assert "s3:PutObject" in caught.value.hint


def test_stamps_of_many_are_one_listing(proxy: Remote, s3_server: S3) -> None:
    base = s3_server.uri("many")
    uris = [store.join(base, f"folder/s{number}.tif") for number in range(25)]
    for uri in [*uris, store.join(base, "folder/s1.tif.msk"), store.join(base, "folder/s1.tif/deep")]:
        store.write_bytes(uri, uri.encode())
    other = store.join(base, "top.tif")
    store.write_bytes(other, b"x")
    proxy.set(clear=1)
    found = store.stamps([*uris, store.join(base, "folder/missing.tif"), other, other])
    assert proxy.set().requests == 2
    assert found == {uri: store.stamp(uri) for uri in [*uris, other]}


def test_stamps_of_local_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    path, missing = str(tmp_path / "a"), str(tmp_path / "b")
    assert store.stamps([path, missing]) == {path: store.stamp(path)}
    assert store.stamps([]) == {}


def test_what_lies_beside(s3_server: S3) -> None:
    base = s3_server.uri("set")
    for name in ("a.tif", "a.tif.msk", "a.tfw", "ab.tif", "bare", "b.1.tif"):
        store.write_bytes(store.join(base, name), b"x")
    assert store.sidecar_endings(store.join(base, "a.tif")) == {".tif.msk", ".tfw"}
    assert store.sidecar_endings(store.join(base, "ab.tif")) == set()
    assert store.sidecar_endings(store.join(base, "b.1.tif")) == set()


# --- the web


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and where a server of Python's own shows it."""
    (tmp_path / "www").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "www", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_web_is_read(web: tuple[Path, str]) -> None:
    folder, url = web
    (folder / "a.bin").write_bytes(b"abcd")
    uri = store.join(url, "a.bin")
    assert store.exists(uri) and not store.exists(store.join(url, "b.bin"))
    assert (store.read_bytes(uri), store.size_of(uri)) == (b"abcd", 4)
    assert (store.read_start(uri, 2), store.read_start(uri, 9)) == (b"ab", b"abcd")
    assert store.glob("a.bin", root=url) == [uri]
    assert store.local_file(uri).read_bytes() == b"abcd"
    first = store.stamp(uri)
    assert store.stamps([uri, store.join(url, "b.bin")]) == {uri: first}
    (folder / "a.bin").write_bytes(b"abcde")
    assert store.stamp(uri) != first
    with pytest.raises(FileNotFoundError):
        store.read_bytes(store.join(url, "b.bin"))


def test_the_web_is_not_written_nor_listed(web: tuple[Path, str], tmp_path: Path) -> None:
    uri = store.join(web[1], "a.bin")
    for change in (
        lambda: store.write_bytes(uri, b"x"),
        lambda: store.remove(uri),
        lambda: store.upload_file(Path(__file__), uri),
    ):
        with pytest.raises(StorageError, match="can only be read"):
            change()
    for look in (lambda: store.glob(store.join(web[1], "*.tif")), lambda: store.list_files(web[1])):
        with pytest.raises(StorageError, match="cannot be listed"):
            look()


@pytest.mark.parametrize("fault", ["throttle", "reset", "cut"])
def test_the_web_is_tried_again(web: tuple[Path, str], fault: str) -> None:
    folder, url = web
    content = os.urandom(200_000)
    (folder / "a.bin").write_bytes(content)
    with proxied(url.removeprefix("http://")) as proxy:
        proxy.set(**{fault: 1}, clear=1)
        assert store.read_bytes(store.join(proxy.url, "a.bin")) == content


def test_addresses_signed_for_get_only_are_looked_at(s3_server: S3) -> None:
    from pipeline.store import s3

    uri = s3_server.uri("x")
    store.write_bytes(uri, b"12345")
    signed = s3.system().sign(uri)
    assert (store.size_of(signed), store.read_bytes(signed), store.stamp(signed)) == (5, b"12345", store.stamp(uri))
    with pytest.raises(StorageError, match="does not allow") as caught:
        store.read_bytes(signed.replace("Signature=", "Signature=x"))
    assert "login or has expired" in caught.value.hint


# --- settings


def test_one_section_for_all(s3_server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store.write_bytes(uri := s3_server.uri("x"), b"abc")
    credentials = tmp_path / "credentials"
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    credentials.write_text(f"[here]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    before = dict(os.environ)
    store.configure(Storage(endpoint=s3_server.endpoint, region="us-east-1", profile="here", max_connections=4))
    assert store.read_bytes(uri) == b"abc"
    system, path = store.arrow(uri)
    assert system.open_input_file(path).read() == b"abc"
    options = store.gdal_env()
    assert options["AWS_S3_ENDPOINT"] == s3_server.endpoint.removeprefix("http://")
    assert (options["AWS_REGION"], options["AWS_HTTPS"]) == ("us-east-1", "NO")
    assert store.gdal_credentials() == {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    shared = store.environment()
    assert not {key, secret} & set(shared.values()), "a secret would travel with the job"
    child = f"from pipeline import store; print(store.read_bytes({uri!r}), store.current().max_connections)"
    bare = {name: value for name, value in before.items() if not name.startswith("AWS_ENDPOINT")}
    told = subprocess.run([sys.executable, "-c", child], env=bare | shared, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["b'abc'", "4"]
    store.configure(Storage())
    assert dict(os.environ) | {"SEGPIPE_STORAGE": ""} == before | {"SEGPIPE_STORAGE": ""}


def test_the_environment_holds_where_the_section_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://from-environment:1")
    store.configure(Storage(anonymous=True, requester_pays=True))
    options = store.gdal_env()
    assert options["AWS_S3_ENDPOINT"] == "from-environment:1"
    assert (options["AWS_NO_SIGN_REQUEST"], options["AWS_REQUEST_PAYER"]) == ("YES", "requester")
    assert store.gdal_credentials() == {}
    store.configure(Storage())
    assert "AWS_NO_SIGN_REQUEST" not in store.gdal_env()


def test_a_damaged_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGPIPE_STORAGE", '{"cash": 1}')
    with pytest.raises(StorageError, match="SEGPIPE_STORAGE"):
        store.gdal_env()


@pytest.mark.parametrize("endpoint", ["https://user:secret@minio:9000", "minio:9000", "https://h/?X-Amz-Signature=1"])
def test_a_recipe_holds_no_secrets(endpoint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Storage(endpoint=endpoint)
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_the_section_survives_the_environment() -> None:
    section = Storage(cache=5, cache_dir="/tmp/x", anonymous=True)
    assert Storage.model_validate(json.loads(section.model_dump_json(exclude_defaults=True))) == section


# --- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTP response code: 404", "missing"),
        ("The specified key does not exist.", "missing"),
        ("Access Denied", "forbidden"),
        ("CPLE_AWSAccessDeniedError", "forbidden"),
        ("The AWS Access Key Id you provided does not exist; InvalidAccessKeyId", "forbidden"),
        ("Request for 1-2 failed with response_code=503", "throttled"),
        ("An error occurred (SlowDown) when calling GetObject", "throttled"),
        ("CURL error: Recv failure: Connection reset by peer", "away"),
        ("Read timeout on endpoint URL", "away"),
        ("HTTP response code: 502", "away"),
        ("TIFFFillTile:Read error at row 1; got 4096 bytes, expected 9000", "unknown"),
        ("not recognized as being in a supported file format", "unknown"),
        ("tile 503 has 404 bytes", "unknown"),
    ],
)
def test_words_of_servers(text: str, expected: str) -> None:
    assert errors.meaning(text) == expected


@given(st.text())
def test_any_words_have_a_meaning(text: str) -> None:
    assert errors.meaning(text) in ("missing", "forbidden", "throttled", "away", "unknown")
