"""Bytes by URI: local paths, file://, s3:// and, to read from, https://.

Credentials and endpoint come from the usual environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_REGION, a profile or
the machine's role) and from the recipe's storage section, see `settings`.

A missing file is a FileNotFoundError, because only the caller knows what it was; every other failure is a StorageError.
"""

from pipeline.store.disk_cache import Cache
from pipeline.store.downloads import download_dir, local_file, remove_at_exit, shared_cache
from pipeline.store.errors import failure, meaning, pause
from pipeline.store.files import (
    NOT_AS_WRITTEN,
    concurrency,
    exists,
    glob,
    list_dirs,
    list_files,
    other_spelling,
    read_bytes,
    read_json,
    read_record,
    read_start,
    regular_file,
    sidecar_endings,
    size_of,
    stamp,
    stamps,
)
from pipeline.store.settings import arrow, configure, current, environment, gdal_credentials, gdal_env
from pipeline.store.writing import append_line, nan_to_null, remove, upload_dir, upload_file, write_bytes, write_json
from pipeline.uris import gdal_path, is_local, is_web, join

__all__ = [
    "NOT_AS_WRITTEN",
    "Cache",
    "append_line",
    "arrow",
    "concurrency",
    "configure",
    "current",
    "download_dir",
    "environment",
    "exists",
    "failure",
    "gdal_credentials",
    "gdal_env",
    "gdal_path",
    "glob",
    "is_local",
    "is_web",
    "join",
    "list_dirs",
    "list_files",
    "local_file",
    "meaning",
    "nan_to_null",
    "other_spelling",
    "pause",
    "read_bytes",
    "read_json",
    "read_record",
    "read_start",
    "regular_file",
    "remove",
    "remove_at_exit",
    "shared_cache",
    "sidecar_endings",
    "size_of",
    "stamp",
    "stamps",
    "upload_dir",
    "upload_file",
    "write_bytes",
    "write_json",
]
