"""Take secrets out of text: passwords in URIs, signatures and tokens in queries, headers, keys. Nothing is read."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.errors import RecipeError

_HIDDEN: Final = "***"
# Up to the last @ before the path: a password may hold one. A slash or a space ends it.
_USER: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^/\s\"'<>]*@")
_QUERY: Final = re.compile(
    r"(?P<key>[?&;]\s*(?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|GoogleAccessId"
    r"|sig|se|sv|token|access_token|id_token|refresh_token|api_?key|key|password|passwd|secret|auth)=)[^&;\s\"'<>]+",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(
    r"(?P<key>\b(?:Bearer|[Aa]uthorization[\"']?\s*[:=]\s*[\"']?(?:[Bb]asic|[Bb]earer))\s+)[^\s\"',;]{6,}"
)
_SETTING: Final = re.compile(
    r"(?P<key>[\"']?\b(?:aws_?secret_?access_?key|aws_?session_?token|mlflow_tracking_(?:password|token)"
    r"|password|passwd|secret|api_?key|access_token)[\"']?\s*[=:]\s*[\"']?)(?!\*\*\*)[^\s\"'&,;}]+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text without users and passwords in URIs, and with *** for other secrets.

    Known are `scheme://user:password@host` in all spellings, signatures and tokens in the query of an address,
    `Basic` and `Bearer` credentials, and settings such as `aws_secret_access_key=...`.
    """
    text = _USER.sub(r"\g<scheme>", text)
    for pattern in (_QUERY, _HEADER, _SETTING):
        text = pattern.sub(rf"\g<key>{_HIDDEN}", text)
    return text


def redacted_tree(tree: Any) -> Any:
    """Plain JSON with every text redacted."""
    if isinstance(tree, dict):
        return {key: redacted_tree(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [redacted_tree(value) for value in tree]
    return redacted(tree) if isinstance(tree, str) else tree


def check_public(tree: Any, where: str) -> None:
    """Refuse secrets in what others can read, such as the command of a job.

    Raises:
        RecipeError: names the keys, not the secrets.
    """
    found = sorted(_secret_paths(tree, ""))
    if found:
        raise RecipeError(
            f"{where} would hold a secret, which everybody who sees the job could read: {', '.join(found)}",
            "take it out of the recipe and set it in the environment of the cluster: MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (in Kubernetes from a Secret)",
        )


def _secret_paths(tree: Any, path: str) -> list[str]:
    if isinstance(tree, dict):
        return [p for key, value in tree.items() for p in _secret_paths(value, f"{path}.{key}" if path else str(key))]
    if isinstance(tree, (list, tuple)):
        return [p for number, value in enumerate(tree) for p in _secret_paths(value, f"{path}.{number}")]
    return [path] if isinstance(tree, str) and redacted(tree) != tree else []


def credentials(uri: str) -> tuple[str, str, str]:
    """An http(s) address without user and password, and these two, decoded; empty where there are none."""
    if not uri.lower().startswith(("http://", "https://")):
        return uri, "", ""
    scheme, rest = uri.split("://", 1)
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    if not at:
        return uri, "", ""
    name, _, password = user.partition(":")
    parts = urlsplit(f"{scheme.lower()}://{host}{slash}{path}")
    return urlunsplit(parts), unquote(name), unquote(password)
