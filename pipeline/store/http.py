"""Read from https:// (and http://) servers, with retries. Servers offer no listing and no writing."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Final

from pipeline.redaction import credentials
from pipeline.store import errors

_TIMEOUT_S: Final = 60
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_HEAD: Final = frozenset({400, 403, 405, 501})  # addresses signed for GET refuse HEAD
_CHUNK: Final = 1 << 20


def head(uri: str) -> Message:
    """Headers of the answer, without a body; `Content-Length` is the size of the file, whatever way it was asked.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: the server wants to know who asks.
        OSError: the server does not answer, also after several tries.
    """
    try:
        found, _ = _request(uri, "HEAD", {})
    except PermissionError:
        found = None
    except _Refused:
        found = None
    if found is None or "Content-Length" not in found:
        found, _ = _request(uri, "GET", {"Range": "bytes=0-0"})
        if "Content-Range" in found:
            total = found["Content-Range"].rpartition("/")[2]
            del found["Content-Length"]
            found["Content-Length"] = total
    return found


def size(uri: str) -> int:
    """Bytes of a file."""
    length = head(uri).get("Content-Length", "")
    if not length.isdigit():
        raise OSError(f"the server does not send the size of {uri}")
    return int(length)


def stamp(uri: str) -> str:
    """The ETag; of a server without ETags, size and date."""
    headers = head(uri)
    tag = headers.get("ETag", "").removeprefix("W/").strip('"')
    return tag or f"{headers.get('Content-Length', '')}-{headers.get('Last-Modified', '')}"


def read(uri: str, length: int | None = None) -> bytes:
    """The whole content, or the first `length` bytes; a server that knows no ranges sends all."""
    return _request(uri, "GET", {} if length is None else {"Range": f"bytes=0-{length - 1}"})[1]


def download(uri: str, target: Path) -> None:
    """Copy a file to the disk, piece by piece; a connection that breaks is taken up where it was."""
    total, tag = size(uri), stamp(uri)
    with target.open("wb") as file:
        while (done := file.tell()) < total:
            end = min(done + 16 * _CHUNK, total) - 1
            headers, data = _request(uri, "GET", {"Range": f"bytes={done}-{end}"})
            if "Content-Range" not in headers:  # a server that knows no ranges sends all
                file.seek(0)
            file.write(data)
    if target.stat().st_size != total or stamp(uri) != tag:
        raise OSError(f"{uri} changed while it was read")


class _Refused(OSError):
    """The server does not know this kind of request."""


def _request(uri: str, method: str, headers: Mapping[str, str]) -> tuple[Message, bytes]:
    address, user, password = credentials(uri)
    login = {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"} if user else {}
    request = urllib.request.Request(address, headers={**headers, **login}, method=method)
    for attempt in range(1, errors.TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
                return reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(uri) from error
            if method == "HEAD" and error.code in _NO_HEAD:
                raise _Refused(uri) from error
            if error.code in (401, 403):
                raise PermissionError(f"HTTP error {error.code} {error.reason}") from error
            if error.code not in _RETRIED or attempt == errors.TRIES:
                raise OSError(f"HTTP error {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:  # no connection, cut off, too late
            if attempt == errors.TRIES:
                raise OSError(f"{type(error).__name__}: {error}") from error
        errors.pause(attempt)
    raise AssertionError("not reached")
