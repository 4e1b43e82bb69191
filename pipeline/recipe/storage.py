"""Section about stores. It holds no secrets: credentials come from where AWS's own tools look for them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.config import Positive, Section


class Storage(Section):
    """Access to buckets and servers: the same for s3fs, GDAL and pyarrow, here and in a cluster's workers."""

    endpoint: str | None = None
    """URL of an S3 server, such as http://minio:9000; by default AWS_ENDPOINT_URL, else AWS."""
    region: str | None = None
    """By default AWS_REGION, or what the profile says."""
    profile: str | None = None
    """Name of a profile in AWS's own files; by default AWS_PROFILE, keys in the environment, or the machine's role."""
    anonymous: bool = False
    """Sign nothing: for public buckets."""
    requester_pays: bool = False
    """Agree to pay for what is read from buckets that ask for it."""
    cache: Annotated[int, Field(ge=0)] = 0
    """Bytes on the disk of each node for what was read from remote stores, shared by all processes; 0: none. Where the
    training data fit in, they cross the network once."""
    cache_dir: str | None = None
    """Local folder of that cache; by default segpipe-cache-UID in the folder for temporary files."""
    max_connections: Positive = 32
    """Most connections to stores at a time, for each process. Fewer if a server asks to slow down."""

    @field_validator("endpoint")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{parts.hostname or 'it'} is no URL; write http://host:port or https://host")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds credentials, which belong in the environment or in a profile, never in a recipe")
        return value.rstrip("/")

    @field_validator("cache_dir")
    @classmethod
    def _local(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError("must be a folder of the node's own disk")
        return value
