"""Translate failures of stores, whatever library reports them: missing, forbidden, throttled, unavailable, damaged."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from pipeline.errors import DataError, PipelineError, StorageError
from pipeline.store import settings
from pipeline.uris import is_local, is_web

Meaning = Literal["missing", "forbidden", "throttled", "away", "unknown"]
TRIES: Final = 5
"""How often a request is made before it is given up."""

_NEVER_READ: Final = (errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EINVAL)
"""Of local files, what trying again does not mend."""
_WORDS: Final[tuple[tuple[Meaning, str], ...]] = (
    ("throttled", r"slow ?down|reduce your request rate|too many requests|throttl|(code|error)[ =:(]+(429|503)\b"),
    (
        "forbidden",
        r"access ?denied|forbidden|signature ?does ?not ?match|invalid ?access ?key|invalid ?credential|expired ?token"
        r"|unauthori[sz]ed|(unable to locate|no) credentials|request ?time ?too ?skewed|(code|error)[ =:(]+40[13]\b",
    ),
    ("missing", r"no such (key|bucket|file)|nosuch(key|bucket)|not ?found|does not exist|(code|error)[ =:(]+404\b"),
    (
        "away",
        r"timed? ?out|timeout|reset by peer|connection (was )?(reset|refused|aborted|broken)|couldn'?t connect"
        r"|could ?n.?t resolve|could not connect|empty reply|recv failure|send failure|broken pipe|endpoint url"
        r"|transfer closed|partial file|internal ?error|service ?unavailable|bad gateway|curl error"
        r"|response_code ?= ?0\b|(code|error)[ =:(]+5\d\d\b",
    ),
)
_PATTERNS: Final = tuple((meaning, re.compile(words, re.IGNORECASE)) for meaning, words in _WORDS)


def meaning(text: str) -> Meaning:
    """Meaning of an error message of a server or of a library."""
    return next((name for name, pattern in _PATTERNS if pattern.search(text)), "unknown")


def failure(uri: str, verb: str, error: BaseException, what: Meaning | None = None) -> StorageError:
    """The error for a store that does not do what it is asked, with what to do about it."""
    if isinstance(error, OSError) and error.errno == errno.EBUSY:  # what s3fs makes of an answer 503 without words
        what = "throttled"
    what = what or meaning(f"{type(error).__name__} {error}")
    if what == "forbidden":
        return StorageError(f"{uri}: the server does not allow to {verb} it ({error})", _policy_hint(uri, verb))
    if what == "throttled":
        return StorageError(
            f"cannot {verb} {uri}: the server still asks to slow down after {TRIES} tries ({error})",
            "try again later, or read with fewer connections (compute.storage.max_connections)",
        )
    return StorageError(f"cannot {verb} {uri}: {error}", hint(uri))


def hint(uri: str) -> str:
    """Hint for a store that does not answer."""
    if is_local(uri):
        return "check the path and its permissions"
    if is_web(uri):
        return "check the address and that the server is up, then try again"
    server = settings.endpoint() or "not set, so AWS"
    return f"check the bucket, the credentials and the endpoint (AWS_ENDPOINT_URL is {server}), then try again"


def _policy_hint(uri: str, verb: str) -> str:
    if is_web(uri):
        return "the address needs a login or has expired; only public and pre-signed addresses can be read"
    needs = {"write": "s3:PutObject", "remove": "s3:DeleteObject", "list": "s3:ListBucket"}.get(verb, "s3:GetObject")
    also = "; without s3:ListBucket a missing object is refused as well" if needs == "s3:GetObject" else ""
    server, profile = settings.endpoint() or "AWS", settings.current().profile
    who = f"of profile {profile}" if profile else "in use"
    return f"the credentials {who} need {needs} at {server} (compute.storage.anonymous for public buckets){also}"


@contextmanager
def translated(uri: str, verb: str) -> Iterator[None]:
    """Errors of the libraries as ours: missing stays FileNotFoundError, everything else is a StorageError."""
    try:
        yield
    except (FileNotFoundError, PipelineError):
        raise
    except OSError as error:
        if is_local(uri) and error.errno in _NEVER_READ and verb != "write":
            raise DataError(f"{uri!r:.300}: cannot be read ({os.strerror(error.errno)})", "check the path") from error
        if is_local(uri):
            raise StorageError(f"cannot {verb} {uri}: {error}", hint(uri)) from error
        # Denials are known by their class only: a denied HEAD request has no message.
        raise failure(uri, verb, error, "forbidden" if isinstance(error, PermissionError) else None) from error
    except Exception as error:
        # botocore's own errors (no credentials, no connection) have no common base that could be named without
        # importing it; a defect of ours on a local path must not be dressed up as a failing store.
        if is_local(uri) and "\0" in uri:
            raise DataError(f"{uri!r:.300}: no path holds a NUL character", "check the path") from error
        if is_local(uri):
            raise
        raise failure(uri, verb, error) from error


def pause(attempt: int) -> None:
    """Wait before try `attempt` (from 1): half a second, doubled each time, of which up to a half is left to chance."""
    time.sleep(0.5 * 2 ** (attempt - 1) * random.uniform(0.5, 1))
