"""Set before anything is imported: no hub, no telemetry, no credentials of this machine, quick Ray polling."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

os.environ.update(
    HF_HUB_OFFLINE="1",  # a test that needs a download is wrong
    NO_ALBUMENTATIONS_UPDATE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    AWS_EC2_METADATA_DISABLED="true",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
    RAY_TRAIN_METRICS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_DEDUP_LOGS="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    RAY_AIR_NEW_OUTPUT="0",
    OMP_NUM_THREADS="2",
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each Ray process would compile all that it imports
for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
    os.environ.pop(name, None)
for name in [n for n in os.environ if n.startswith("AWS_") and n != "AWS_EC2_METADATA_DISABLED"]:
    del os.environ[name]

pytest_plugins = ["tests.bad_line", "tests.ray_cluster", "tests.servers"]

# No test is timed: a busy machine may take as long as it needs over an example.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n 2`: tests of one file share a process, and all that need Ray share one process and one cluster.

    Those with Ray come first, since they take longest.
    """
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        on_ray = item.get_closest_marker("ray") is not None
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else item.nodeid.partition("::")[0]))
