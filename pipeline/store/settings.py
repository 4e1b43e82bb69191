"""Settings of stores: one section of the recipe and AWS's environment variables, translated for each library.

`configure` puts the section into the environment, so that child processes find it; `environment()` is what workers on
other machines need. Credentials are never among it: every node finds its own where AWS's tools look for them.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from pipeline.errors import StorageError
from pipeline.recipe.storage import Storage
from pipeline.uris import is_local, local_path, s3_path

VARIABLE: Final = "SEGPIPE_STORAGE"
"""Environment variable that holds the section as JSON."""

_AWS: Final = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
}
# Whatever could lead to other credentials; a botocore session is made again when one of them changes.
_CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE")

_before: dict[str, str | None] = {}


def configure(storage: Storage) -> None:
    """Reach stores as the section says, in this process and those it starts; what it leaves open stays as it was.

    A second call replaces the first.
    """
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()
    given = {name: getattr(storage, key) for key, names in _AWS.items() for name in names}
    for name, value in {**given, VARIABLE: storage.model_dump_json(exclude_defaults=True)}.items():
        if value is not None:
            _before[name] = os.environ.get(name)
            os.environ[name] = value


def current() -> Storage:
    """The section that holds in this process.

    Raises:
        StorageError: the environment variable does not hold one.
    """
    return _parsed(os.environ.get(VARIABLE, "{}"))


def environment() -> dict[str, str]:
    """Environment variables that make another process reach the same stores; no secrets.

    For `ray.init(runtime_env={"env_vars": store.environment()})` and for containers.
    """
    names = (VARIABLE, *(name for names in _AWS.values() for name in names))
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def endpoint() -> str | None:
    """The S3 endpoint; None means AWS, or what a profile says."""
    return _first(_AWS["endpoint"])


def region() -> str | None:
    """The S3 region."""
    return _first(_AWS["region"])


def key() -> tuple[str | None, ...]:
    """Equal as long as connections can be kept: process, server and credentials."""
    names = (VARIABLE, *_CREDENTIALS, *(name for names in _AWS.values() for name in names))
    return (str(os.getpid()), *(os.environ.get(name) for name in names))


def s3_options() -> dict[str, Any]:
    """Arguments of s3fs."""
    section = current()
    # botocore's standard mode retries throttling, timeouts and 5xx with exponential waiting; s3fs does so on top of it
    # where a server asks to slow down or a connection breaks.
    config = {
        "retries": {"max_attempts": 3, "mode": "standard"},
        "connect_timeout": 5,
        "read_timeout": 60,
        "max_pool_connections": section.max_connections,
    }
    options = {"anon": section.anonymous, "requester_pays": section.requester_pays, "config_kwargs": config}
    return options | ({"profile": section.profile} if section.profile and not section.anonymous else {})


def gdal_env() -> dict[str, str]:
    """GDAL options for windowed reading, local and from the same stores that the rest of the program uses."""
    section = current()
    options = {
        # Do not list the folder (buckets can hold millions of files), but still look for mask and metadata files.
        "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "GDAL_HTTP_MAX_RETRY": "2",
        "GDAL_HTTP_RETRY_DELAY": "0.5",
        "GDAL_HTTP_CONNECTTIMEOUT": "10",
        "GDAL_HTTP_TIMEOUT": "60",
        "CPL_VSIL_CURL_CACHE_SIZE": "67108864",  # bytes: headers and indices of thousands of files
        # MB; the default is 5 % of the machine for each of many processes.
        "GDAL_CACHEMAX": os.environ.get("GDAL_CACHEMAX") or "256",
        "GDAL_NUM_THREADS": "1",
    }
    if section.anonymous:
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    if section.requester_pays:
        options["AWS_REQUEST_PAYER"] = "requester"
    if area := region():
        options["AWS_REGION"] = area
    if server := endpoint():
        parts = urlsplit(server if "://" in server else f"https://{server}")
        options["AWS_S3_ENDPOINT"] = parts.netloc + parts.path.rstrip("/")
        options["AWS_HTTPS"] = "NO" if parts.scheme == "http" else "YES"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return options


def gdal_credentials() -> dict[str, str]:
    """The credentials that s3fs uses, as GDAL options; none if requests are not signed or there are none.

    GDAL's own search knows neither single sign-on nor credential processes.
    """
    if current().anonymous:
        return {}
    found = _session(key()).get_credentials()
    if found is None:
        return {}
    frozen = found.get_frozen_credentials()  # fetched again when they are about to expire
    options = {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
    return options | ({"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {})


def arrow(uri: str) -> tuple[Any, str]:
    """pyarrow's file system for a URI, and what it calls the file.

    pyarrow cannot agree to pay as the requester.
    """
    from pyarrow import fs

    if is_local(uri):
        return fs.LocalFileSystem(), str(local_path(uri))
    section = current()
    options: dict[str, Any] = {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=5), "connect_timeout": 10}
    if area := region():
        options["region"] = area
    if server := endpoint():
        parts = urlsplit(server if "://" in server else f"https://{server}")
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    if section.anonymous:
        options["anonymous"] = True
    elif section.profile:
        given = gdal_credentials()
        options["access_key"], options["secret_key"] = given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"]
        options["session_token"] = given.get("AWS_SESSION_TOKEN")
    return fs.S3FileSystem(**options), s3_path(uri)


@lru_cache(maxsize=8)
def _parsed(text: str) -> Storage:
    try:
        return Storage.model_validate_json(text)
    except ValueError as error:
        raise StorageError(f"{VARIABLE} is no storage section: {error}", "unset it, or call store.configure") from error


@lru_cache(maxsize=8)
def _session(_key: tuple[str | None, ...]) -> Any:
    from botocore.session import Session  # type: ignore[import-untyped]

    return Session(profile=current().profile)


def _first(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
