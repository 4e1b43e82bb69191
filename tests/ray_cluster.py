"""One Ray cluster for all tests of a session: logical CPUs, no dashboard, a small object store.

The environment that makes Ray quick and quiet is set in conftest.py, before Ray is imported.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A connection to a local cluster of six logical CPUs, whatever this machine has."""
    import ray

    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        object_store_memory=300 * 1024**2,
        log_to_driver=False,
        logging_level="WARNING",
    )
    yield
    ray.shutdown()
