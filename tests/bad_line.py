"""Fixtures: the S3 server behind a proxy that can do harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline import store
from pipeline.recipe.storage import Storage
from tests.proxy import Remote, proxied
from tests.servers import S3


@pytest.fixture(scope="module")
def proxy_process(s3_process: S3) -> Iterator[Remote]:
    with proxied(s3_process.endpoint.removeprefix("http://")) as proxy:
        yield proxy


@pytest.fixture
def proxy(s3_server: S3, proxy_process: Remote, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """The S3 server of this test, behind a proxy that does no harm yet."""
    proxy_process.set(clear=1, throttle=0, reset=0, cut=0, hang=0, latency_s=0, only="")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy_process.url)
    yield proxy_process
    store.configure(Storage())
