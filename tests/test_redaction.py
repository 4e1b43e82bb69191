"""Secrets stay out of whatever is written, shown or sent."""

from __future__ import annotations

import json
import logging
import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import log, on_ray
from pipeline.__main__ import main
from pipeline.errors import RecipeError
from pipeline.redaction import credentials, redacted
from pipeline.registry.server import accepted, check, tracking_uri
from pipeline.train.fit import fit
from tests.factory import QUICK, recipe_for, world

SECRET = "hunter2Sesame"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a login sets is taken back."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host/x",
        f"HTTPS://me:{SECRET}@host:8080/x",
        f"https://{SECRET}@host",
        f"https://:{SECRET}@host",
        f"https://me%40corp:{SECRET}@host",
        f"https://me:a@b@{SECRET}@host/x",
        f"http://me:{SECRET}@[::1]:5000/",
        f"postgresql+psycopg2://me:{SECRET}@db/mlflow",
        f"cannot reach 'https://me:{SECRET}@host/x': refused (see mysql://u:{SECRET}@h/d)",
        f"s3://b/k?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"https://h/a.tif?X-Amz-Credential={SECRET}%2F1&x-amz-security-token={SECRET}",
        f"https://h/a.tif?sv=1&sig={SECRET}",
        f"https://h/a?access_token={SECRET}",
        f"https://h/a?a=1&X-Goog-Signature={SECRET}",
        f"Authorization: Basic {SECRET}==",
        f"authorization: bearer {SECRET}",
        f"aws_secret_access_key={SECRET}",
        f'{{"AWS_SECRET_ACCESS_KEY": "{SECRET}"}}',
        f"MLFLOW_TRACKING_PASSWORD={SECRET} segpipe train",
    ],
)
def test_secrets_are_taken_out_of_any_text(text):
    assert SECRET not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b.tif",
        "https://host/path?page=2#top",
        "/data/scenes/s0.tif",
        "models:/roads@champion",
        "scene a: label values without a class: 7 (3 pixels)",
        "data.images: images/*.tif",
        "key decides; keys: a, b",
    ],
)
def test_other_text_stays(text):
    assert redacted(text) == text


@given(st.text("aB1@:%.", min_size=1, max_size=12), st.sampled_from(["http", "https", "mysql", "postgresql+x"]))
def test_no_password_is_left_of_it(password, scheme):
    text = redacted(f"before {scheme}://me:x{password}y@host.example/p after")
    assert text == f"before {scheme}://host.example/p after"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:p%40ss@host:1/x?y=1", ("https://host:1/x?y=1", "me", "p@ss")),
        ("https://me:a@b@host", ("https://host", "me", "a@b")),
        ("https://token@host/", ("https://host/", "token", "")),
        ("https://host/a@b", ("https://host/a@b", "", "")),
        ("sqlite:////a@b.db", ("sqlite:////a@b.db", "", "")),
    ],
)
def test_user_and_password_of_an_address(uri, expected):
    assert credentials(uri) == expected


class Server(HTTPServer):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []


class Handler(BaseHTTPRequestHandler):
    """Answers as MLflow does where there are no experiments."""

    def _answer(self) -> None:
        self.server.asked.append((self.headers["Host"], self.headers.get("Authorization", "")))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def test_a_password_in_the_tracking_uri_is_sent_as_a_header(server, tmp_path):
    host = f"127.0.0.1:{server.server_port}"
    recipe = recipe_for(tmp_path, **{"compute.tracking_uri": f"http://me:{SECRET}@{host}"})
    uri = tracking_uri(recipe)
    assert uri == f"http://{host}"
    check(uri)
    assert {asked[0] for asked in server.asked} == {host}
    assert server.asked[-1][1] == f"Basic {b64encode(f'me:{SECRET}'.encode()).decode()}"


def test_a_job_with_a_secret_in_its_recipe_is_refused(tmp_path):
    secret = {"compute.tracking_uri": f"https://me:{SECRET}@host"}
    with pytest.raises(RecipeError, match=r"would hold a secret.*compute\.tracking_uri") as caught:
        on_ray.submit("train", recipe_for(tmp_path, **secret), address="http://127.0.0.1:9")
    assert SECRET not in str(caught.value) and "MLFLOW_TRACKING_PASSWORD" in caught.value.hint


@pytest.mark.parametrize("uri", ["foo", "htp://x", "/tmp", "file:///tmp/x", "http://", "ftp://h/x", ""])
def test_what_is_no_server_is_refused_at_once(uri):
    with pytest.raises(RecipeError, match="MLflow"):
        accepted(uri)


@pytest.mark.parametrize("uri", ["https://h", "HTTP://h:5000/x", "sqlite:////a/b.db", "postgresql+psycopg2://h/d"])
def test_servers_and_databases_are_taken(uri):
    assert accepted(uri) == uri


@pytest.mark.parametrize("folder", ["a%20b", "what?", "a#b", "two words", "ünï"])
def test_sqlite_lies_in_folders_of_any_name(tmp_path, folder):
    recipe = recipe_for(tmp_path, **{"compute.output": str(tmp_path / folder)})
    check(tracking_uri(recipe))
    assert (tmp_path / folder / "mlflow.db").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder]


def test_log_lines_and_tracebacks_hold_no_secret():
    log.setup()
    handler = next(h for h in logging.getLogger("pipeline").handlers if isinstance(h, log._Stderr))
    try:
        raise ValueError(f"https://me:{SECRET}@host")
    except ValueError:
        import sys

        record = logging.LogRecord(
            "pipeline.x", logging.ERROR, "", 1, "at %s", (f"s3://b?sig={SECRET}",), sys.exc_info()
        )
    assert SECRET not in handler.format(record)


PLANTED = {
    "tracking": {"compute.tracking_uri": f"http://me:{SECRET}@127.0.0.1:9"},
    "token as user": {"compute.tracking_uri": f"http://{SECRET}@127.0.0.1:9"},
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_no_file_of_a_run_holds_a_secret(tmp_path, planted, capfd):
    """Index, train, evaluate and an error, by the command line; without a server, which is named with its password."""
    folder = world(tmp_path / "data", scenes=6, size=48)
    changes = QUICK | {"train.steps": 1, "compute.output": str(tmp_path / "runs"), "compute.tracking_required": False}
    recipe = recipe_for(folder, **changes | planted)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    assert main(["index", str(path)]) == 0
    assert main(["train", str(path), "--json"]) == 0
    (bundle,) = (tmp_path / "runs").rglob("bundle")
    assert main(["evaluate", str(path), "--model", str(bundle), "--out", str(tmp_path / "report")]) == 0
    assert main(["evaluate", str(path), "--model", f"https://me:{SECRET}@host/bundle"]) != 0
    out, err = capfd.readouterr()
    assert SECRET not in out + err
    path.unlink()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_an_mlflow_database_holds_no_secret(tmp_path, monkeypatch):
    """The recipe is logged as a file and as params."""
    folder = world(tmp_path / "data", scenes=6, size=48)
    output = str(tmp_path / "runs")
    group = f"^s[0-9]|https://host/a.tif?sig={SECRET}"
    secrets = {"data.split": {"kind": "hash", "val": 0.2, "test": 0.2, "group": group}}
    fit(
        recipe_for(
            folder, **QUICK | {"train.steps": 1, "compute.output": output, "compute.tracking_uri": None} | secrets
        )
    )
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if file.name == "mlflow.db"]
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert SECRET not in str(os.environ)


def test_two_first_starts_on_one_database(tmp_path):
    """Tables are made by one of them; both go on."""
    recipe = recipe_for(tmp_path, **{"compute.output": str(tmp_path / "new")})
    failures: list[BaseException] = []

    def start() -> None:
        try:
            check(tracking_uri(recipe))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert Path(tmp_path / "new" / "mlflow.db").is_file()
