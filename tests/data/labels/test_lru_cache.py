import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.labels.lru_cache import Memory


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 30))
def test_what_is_kept_weighs_no_more_than_the_limit(keys, limit):
    memory = Memory(limit, lambda weight: weight)
    for key in keys:
        assert memory.get(key, lambda key=key: key) == key
        kept = [weight for weight, _ in memory._things.values()]
        assert (sum(kept) <= limit or len(kept) == 1) and key in kept


def test_the_least_recently_used_goes_first():
    made = []
    memory = Memory(2, lambda _: 1)
    for key in ("a", "b", "a", "c", "a", "b"):
        memory.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]


def test_threads_that_want_the_same_make_it_once():
    made, ready = [], threading.Barrier(8)
    memory = Memory(10, lambda _: 1)

    def make():
        made.append(1)
        time.sleep(0.02)
        return object()

    def get(_):
        ready.wait()
        return memory.get("a", make)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(get, range(8)))
    assert len(made) == 1 and len(set(map(id, found))) == 1


def test_what_cannot_be_made_is_tried_again():
    memory = Memory(10, lambda _: 1)
    with pytest.raises(ZeroDivisionError):
        memory.get("a", lambda: 1 // 0)
    assert memory.get("a", lambda: 2) == 2
