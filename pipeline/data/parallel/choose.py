"""Choose the map for a recipe: threads, or the cluster."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.data.parallel import local
from pipeline.data.parallel.local import Map
from pipeline.recipe import Compute


def uses_cluster(compute: Compute) -> bool:
    """Whether a cluster that is there already shall read: by `runner` and `feed` ray, and an address or a connection.

    A cluster that would have to be started on this machine first could not do more than its threads.
    """
    if (compute.runner, compute.feed) != ("ray", "ray"):
        return False
    return bool(compute.address or os.environ.get("RAY_ADDRESS")) or _connected()


@contextmanager
def chosen(compute: Compute) -> Iterator[Map]:
    """The map to be used for a recipe, connected to its cluster as long as this lasts, if that is what it takes.

    Raises:
        ClusterError: the cluster does not answer.
    """
    if not uses_cluster(compute):
        yield local.mapped
        return
    # A machine without Ray runs everything else of this file.
    on_ray = importlib.import_module("pipeline.data.parallel.on_ray")
    with on_ray.connected(compute.address or os.environ.get("RAY_ADDRESS")):
        yield on_ray.mapped


def _connected() -> bool:
    ray = sys.modules.get("ray")  # what was never imported has no connection, and importing it takes seconds
    return ray is not None and bool(ray.is_initialized())
