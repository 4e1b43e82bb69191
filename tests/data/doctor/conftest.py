"""One clean world for all tests; those that spoil it take a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.scenes.synthetic import make_world
from tests.data.doctor import worlds
from tests.data.doctor.worlds import SIZE


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    make_world(folder, num_scenes=10, size=SIZE, seed=1)
    return folder


@pytest.fixture
def world(clean: Path, tmp_path: Path) -> Path:
    return worlds.copy(clean, tmp_path)
