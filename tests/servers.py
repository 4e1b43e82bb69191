"""Real servers for tests, started once per session and only if a test asks: MLflow on SQLite, and S3 (SeaweedFS)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

S3_KEY, S3_SECRET, BUCKET = "testkey", "testsecret", "segpipe-test"


@dataclass(frozen=True)
class S3:
    """An S3 server on this machine."""

    endpoint: str
    bucket: str

    def uri(self, name: str = "") -> str:
        """A prefix that no other test has."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex[:8]}/{name}".rstrip("/")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, nor on the same + 10000, where SeaweedFS puts its gRPC."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe, socket.socket() as grpc:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port + 10000 > 65535 or {port, port - 10000, port + 10000} & set(found):
                continue
            try:
                grpc.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            found.append(port)
    return found


def _answers(url: str) -> int | None:
    """Status of a GET, or None while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return None


@contextmanager
def serving(command: list[str], url: str, ready: set[int], log: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a server until the block ends; it and its children are a process group of their own, killed as one."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while _answers(url) not in ready:
            tail = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}:\n{tail}"
            assert time.monotonic() < deadline, f"{command[0]} did not answer at {url} in 180 s:\n{tail}"
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a real MLflow server with SQLite and its own artifact store."""
    base = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{base}/mlflow.db", "--artifacts-destination", f"{base}/artifacts"]
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(command, f"{url}/health", {200}, base / "server.log", env):
        yield url


@contextmanager
def s3_at(base: Path, *, prefix: tuple[str, ...] = ()) -> Iterator[S3]:
    """A running S3 server with one bucket, its files in `base`; `prefix` goes before its command (`taskset -c 3`)."""
    master, volume, filer, port = free_ports(4)
    (base / "data").mkdir()
    identity = {
        "name": "test",
        "credentials": [{"accessKey": S3_KEY, "secretKey": S3_SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (base / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [*prefix, str(Path(sys.executable).parent / "weed"), "-logtostderr", "server", f"-dir={base}/data"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}"]
    command += [f"-filer.port={filer}", "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=40"]
    command += ["-s3", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={base}/s3.json"]
    command += ["-s3.localSocket=", "-filer.localSocket="]
    url = f"http://127.0.0.1:{port}"
    with serving(command, url, {200, 403}, base / "server.log", {}):
        system = fsspec.filesystem(
            "s3", key=S3_KEY, secret=S3_SECRET, endpoint_url=url, skip_instance_cache=True, use_listings_cache=False
        )
        deadline = time.monotonic() + 60
        while True:  # the gateway answers a little before the volumes behind it do
            try:
                system.mkdir(BUCKET)
                system.pipe_file(f"{BUCKET}/ready", b"1")
                break
            except OSError:
                assert time.monotonic() < deadline, (base / "server.log").read_text(errors="replace")[-3000:]
                time.sleep(0.5)
        yield S3(url, BUCKET)


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A running S3 server; tests take `s3_server`, which also sets the environment."""
    with s3_at(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_server(s3_process: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The S3 server, and the environment that makes it the one of this test."""
    settings = {
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_ENDPOINT_URL": s3_process.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return s3_process
