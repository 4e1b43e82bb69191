"""Submit a verb as a job to a Ray cluster.

The recipe travels in the command as one word, the code is in the cluster's image, and no `runtime_env` is used: what
a job needs is there before it starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.config import inline
from pipeline.errors import ClusterError
from pipeline.recipe import Recipe, absolute
from pipeline.redaction import check_public

logger = logging.getLogger(__name__)

_CONNECT_S = 10.0
_POLL_S = 1.0
_STOPPED = 130


def submit(
    verb: str,
    recipe: Recipe,
    arguments: Sequence[str] = (),
    *,
    address: str,
    wait: bool = True,
    show: Callable[[str], object] = sys.stderr.write,
) -> tuple[str, int]:
    """Run a verb as a job; returns the job's id and its exit code (0 where it is not waited for).

    While waiting, the job's log goes to `show`. Interrupting the wait does not stop the job.

    Args:
        verb: Name of a module in `jobs`: index, doctor, prepare, train, evaluate, promote, tune.
        recipe: Local paths in it are made absolute, for clusters that share the disk.
        arguments: Further words for the verb's command line.
        address: The job server, such as http://head:8265.
        wait: Follow the job to its end.
        show: Takes the pieces of the log.

    Raises:
        ClusterError: the job server does not answer, or the job was lost with its cluster.
    """
    check_public(recipe.model_dump(mode="json"), "the command of the job")
    client = _connect(address)
    words = ["python", "-m", f"jobs.{verb}", inline(absolute(recipe)), *arguments, "--json"]
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    try:
        job: str = client.submit_job(
            entrypoint=shlex.join(words),
            submission_id=f"{recipe.name}-{verb}-{recipe.fingerprint}-{stamp}",
            metadata={"recipe": recipe.name, "verb": verb, "fingerprint": recipe.fingerprint},
        )
        logger.info("job %s at %s", job, address)
        return job, _follow(client, job, address, show) if wait else 0
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(f"the job server at {address} does not take the job: {error}", _hint(address)) from error


def _connect(address: str) -> JobSubmissionClient:
    """A client of a server that is known to listen: Ray's own would wait for minutes."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        raise ClusterError(f"{address}: not the address of a job server", "it looks like http://head:8265")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
        return JobSubmissionClient(address)
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"no job server answers at {address}: {error}", _hint(address)) from error


def _hint(address: str) -> str:
    token = "" if os.environ.get("RAY_AUTH_TOKEN") else "; a cluster with a token needs RAY_AUTH_TOKEN"
    return f"check that the cluster is up and that {address} is its dashboard{token}"


def _follow(client: JobSubmissionClient, job: str, address: str, show: Callable[[str], object]) -> int:
    """Show the log until the job has ended; its exit code."""
    asyncio.run(_tail(client, job, show))
    while not (status := client.get_job_status(job)).is_terminal():
        time.sleep(_POLL_S)  # the log has ended or its connection broke; the job goes on
    if status == JobStatus.SUCCEEDED:
        return 0
    if status == JobStatus.STOPPED:
        return _STOPPED
    info = client.get_job_info(job)
    if info.driver_exit_code is None:
        raise ClusterError(f"job {job} at {address} was lost: {info.message}", "submit it again; a run resumes")
    code: int = info.driver_exit_code
    return code


async def _tail(client: JobSubmissionClient, job: str, show: Callable[[str], object]) -> None:
    async for piece in client.tail_job_logs(job):
        show(piece)
