"""Every map gives the results in the order of the jobs, and fails as the first job in that order does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline import store
from pipeline.data.parallel import choose, local
from pipeline.data.parallel.local import Map
from pipeline.errors import ClusterError, SceneError, StorageError
from pipeline.recipe import Compute
from pipeline.recipe.storage import Storage


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def mapped(request: pytest.FixtureRequest) -> Map:
    return by_ray(request) if request.param == "ray" else local.mapped


def by_ray(request: pytest.FixtureRequest) -> Map:
    request.getfixturevalue("ray_cluster")
    from pipeline.data.parallel import on_ray

    return on_ray.mapped


@pytest.fixture
def ray_map(request: pytest.FixtureRequest) -> Map:
    return by_ray(request)


def slow_first(job: int) -> tuple[int, int]:
    time.sleep(0.05 if job % 7 == 0 else 0)
    return job, os.getpid()


@pytest.mark.parametrize("threaded", [False, True])
def test_results_come_in_the_order_of_the_jobs(mapped: Map, threaded: bool) -> None:
    assert [job for job, _ in mapped(slow_first, range(100), threaded=threaded)] == list(range(100))
    assert list(mapped(slow_first, [])) == []


def late_and_early(job: int) -> int:
    if job == 3:
        time.sleep(0.3)
        raise SceneError("scene 3 cannot be read", "look at it")
    if job == 5:
        raise StorageError("scene 5 does not answer", "try again")
    return job


@pytest.mark.parametrize("threaded", [False, True])
def test_the_first_error_in_the_order_of_the_jobs_is_raised_as_it_was(mapped: Map, threaded: bool) -> None:
    results, got = mapped(late_and_early, range(40), threaded=threaded), []
    with pytest.raises(SceneError) as caught:
        for result in results:
            got.append(result)
    assert got == [0, 1, 2]
    assert type(caught.value) is SceneError
    assert (caught.value.message, caught.value.hint) == ("scene 3 cannot be read", "look at it")
    assert list(mapped(abs, [-1])) == [1], "another call is not disturbed"


def wrong(job: int) -> float:
    return 1 / job


def test_a_fault_of_the_program_comes_out_as_what_it_is(mapped: Map) -> None:
    with pytest.raises(ZeroDivisionError):
        list(mapped(wrong, [1, 0]))


def test_threads_work_a_few_jobs_ahead_and_no_more() -> None:
    begun: list[int] = []
    results = local.mapped(lambda job: begun.append(job) or job, range(10_000), threads=2)
    assert isinstance(results, Iterator)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert len(begun) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mapped")]


def test_a_function_with_threads_of_its_own_is_called_in_this_thread() -> None:
    names = list(local.mapped(lambda job: threading.current_thread().name, range(3), threaded=True))
    assert names == [threading.current_thread().name] * 3


@pytest.mark.ray
def test_processes_of_the_cluster_do_the_work(ray_map: Map) -> None:
    pids = {pid for _, pid in ray_map(slow_first, range(0, 700, 7))}
    assert len(pids) >= 2
    assert os.getpid() not in pids


@pytest.mark.ray
def test_few_tasks_do_many_jobs(ray_cluster: None) -> None:
    from pipeline.data.parallel import on_ray

    parts = on_ray.parts_of(range(-100_000, 0), 1)
    assert len(parts) == 64
    assert [job for part in parts for job in part] == list(range(-100_000, 0))
    assert len(on_ray.parts_of(range(3), 4)) == 3


def dying(job: int, died: Path) -> int:
    if job == 2 and not died.exists():
        died.touch()
        os._exit(1)
    return job


@pytest.mark.ray
def test_jobs_of_a_process_that_dies_are_done_again(ray_map: Map, tmp_path: Path) -> None:
    assert list(ray_map(partial(dying, died=tmp_path / "died"), range(6))) == list(range(6))
    assert (tmp_path / "died").exists()


def deadly(job: int) -> int:
    if job == 102:
        os._exit(1)
    return job


@pytest.mark.ray
def test_a_job_at_which_every_process_dies_is_an_error(ray_map: Map) -> None:
    results = ray_map(deadly, range(100, 106))
    assert [next(results), next(results)] == [100, 101]
    with pytest.raises(ClusterError, match=r"4 processes of the cluster died at one of 1 jobs, .*102"):
        next(results)


def endpoint(_job: int) -> tuple[str | None, Storage]:
    return os.environ.get("AWS_ENDPOINT_URL_S3"), store.current()


@pytest.mark.ray
def test_storage_settings_hold_where_the_work_is_done(ray_map: Map) -> None:
    """Also in a cluster that was there before the recipe was read."""
    before = set(ray_map(endpoint, range(12)))
    section = Storage(endpoint="http://127.0.0.1:9", anonymous=True)
    store.configure(section)
    try:
        assert set(ray_map(endpoint, range(12))) == {("http://127.0.0.1:9", section)}
    finally:
        store.configure(Storage())
    assert set(ray_map(endpoint, range(12))) == before, "and no longer than for this recipe"


@pytest.mark.ray
def test_the_map_of_a_recipe(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.data.parallel import on_ray

    def of(**changes: str) -> Map:
        with choose.chosen(Compute(**changes)) as found:
            return found

    assert of(runner="ray", feed="ray") is on_ray.mapped
    assert of(runner="local", feed="ray") is of(runner="ray", feed="local") is local.mapped
    monkeypatch.setattr(choose, "_connected", lambda: False)
    assert of(runner="ray", feed="ray") is local.mapped, "no cluster is started to read"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert choose.uses_cluster(Compute())
    assert not choose.uses_cluster(Compute(feed="local"))
