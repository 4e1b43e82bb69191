"""Jobs on a real cluster of this machine, through its job server."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from pipeline.__main__ import main
from pipeline.errors import ClusterError
from pipeline.on_ray import submit
from tests import factory
from tests.servers import free_ports, serving

REPO = Path(__file__).parent.parent
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def job_server() -> Iterator[str]:
    """Address of the job server of a head node with six CPUs, a process tree of its own."""
    # A directory of its own: in the usual one, whoever else calls ray.init() on this machine would find this cluster.
    # And a short one, since the sockets are in it.
    base = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    gcs, dashboard, client, agent = free_ports(4)
    binaries = Path(sys.executable).parent
    command = [str(binaries / "ray"), "start", "--head", "--block", f"--port={gcs}", "--num-cpus=6"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--object-store-memory=200000000", "--node-ip-address=127.0.0.1", f"--temp-dir={base}"]
    url = f"http://127.0.0.1:{dashboard}"
    environment = {"PATH": f"{binaries}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    with serving(command, f"{url}/api/version", {200}, base / "ray.log", environment):
        yield url
    shutil.rmtree(base, ignore_errors=True)


def test_index_as_a_job_writes_the_manifest_and_shows_its_log(job_server: str, tmp_path: Path) -> None:
    recipe = factory.recipe_for(factory.world(tmp_path))
    shown: list[str] = []
    job, code = submit("index", recipe, address=job_server, show=shown.append)
    assert code == 0, "".join(shown)
    assert job.startswith(f"tiny-index-{recipe.fingerprint}-")
    pointer = json.loads((tmp_path / "runs/tiny/manifest.json").read_text())
    assert pointer["digest"] in "".join(shown)
    info = JobSubmissionClient(job_server).get_job_info(job)
    assert not info.runtime_env


def test_a_job_that_fails_gives_its_own_exit_code_and_message(job_server: str, tmp_path: Path) -> None:
    recipe = factory.recipe_for(factory.world(tmp_path), **{"data.images": "nothing/*"})
    shown: list[str] = []
    _, code = submit("index", recipe, address=job_server, show=shown.append)
    assert code == 3
    assert "nothing/*" in "".join(shown)


@pytest.mark.slow
def test_doctor_and_prepare_as_jobs(job_server: str, tmp_path: Path) -> None:
    """From the command line, which passes their exit codes on."""
    recipe = factory.recipe_for(factory.world(tmp_path))
    path = tmp_path / "recipe.json"
    path.write_text(recipe.model_dump_json())
    assert main(["submit", "prepare", str(path), "--address", job_server]) == 0
    assert list((tmp_path / "runs/tiny/shards").rglob("shards.json"))
    code = main(["submit", "doctor", str(path), "--address", job_server])
    audit = json.loads((tmp_path / "runs/tiny/doctor/report.json").read_text())
    assert code == (3 if any(finding["severity"] == "error" for finding in audit["findings"]) else 0)


def test_train_as_a_job_runs_on_the_cluster_it_was_sent_to(job_server: str, tmp_path: Path) -> None:
    changes = {"compute.runner": "ray", "compute.feed": "ray", "compute.num_workers": 2}
    recipe = factory.recipe_for(factory.world(tmp_path), **changes)
    shown: list[str] = []
    job, code = submit("train", recipe, address=job_server, wait=False, show=shown.append)
    assert (code, shown) == (0, [])
    client = JobSubmissionClient(job_server)
    deadline = time.monotonic() + 240
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)
        time.sleep(1)
    log = client.get_job_logs(job)
    assert client.get_job_status(job).value == "SUCCEEDED", log
    record = json.loads([line for line in log.splitlines() if line.startswith('{"bundle"')][-1])
    assert record["step"] == recipe.train.steps
    assert (Path(record["bundle"]) / "weights.safetensors").is_file()


def test_an_address_where_nobody_is_is_named(tmp_path: Path) -> None:
    recipe = factory.recipe_for(tmp_path)
    (port,) = free_ports(1)
    with pytest.raises(ClusterError, match=f"no job server answers at http://127.0.0.1:{port}"):
        submit("train", recipe, address=f"http://127.0.0.1:{port}")
    with pytest.raises(ClusterError, match="head:8265: not the address of a job server"):
        submit("train", recipe, address="head:8265")


@pytest.mark.parametrize("verb", ["index", "doctor", "prepare", "train", "tune", "evaluate", "predict", "promote"])
def test_every_job_is_its_verb_on_the_command_line(verb: str) -> None:
    spec = importlib.util.find_spec(f"jobs.{verb}")
    assert spec is not None
    run = subprocess.run([sys.executable, "-m", f"jobs.{verb}", "--help"], capture_output=True, text=True, check=True)
    assert f"segpipe {verb}" in run.stdout
