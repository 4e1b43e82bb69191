"""Rank and size come from the environment alone; logging touches only its own logger."""

from __future__ import annotations

import logging

from pipeline import log
from pipeline.world import World

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def test_alone_without_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert World.detect() == World(rank=0, size=1, local_rank=0, local_size=1)
    assert World.detect().leader


def test_reads_what_torchrun_and_ray_train_set(monkeypatch):
    for name, value in zip(VARIABLES, ("5", "8", "1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert World.detect() == World(rank=5, size=8, local_rank=1, local_size=4)
    assert not World.detect().leader


def test_setup_leaves_the_root_logger_alone_and_is_idempotent():
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    log.setup(rank=3)
    log.setup(rank=3)
    package = logging.getLogger("pipeline")
    assert (list(root.handlers), root.level) == before
    assert sum(type(h).__module__ == log.__name__ for h in package.handlers) == 1
    assert package.level == logging.WARNING
    log.setup()
    assert package.level == logging.INFO


def test_progress_writes_plain_lines_into_a_log(caplog):
    with caplog.at_level(logging.INFO, "pipeline"), log.progress("scenes") as advance:
        advance(1, 3)
        advance(3, 3, "done")
    assert {r.getMessage() for r in caplog.records} == {"scenes 3/3 done"}
