"""What the API server would refuse: CRD schemas and their CEL rules, and the core objects' schemas.

Stricter than the server in one way: a field that the schema does not know is an error here, where the server would
drop it without a word.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
import yaml

Document = dict[str, Any]

KUBERNETES = "1.33"
"""Version of the core schemas; any cluster from there on takes what passes."""

_METADATA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        "finalizers": {"type": "array", "items": {"type": "string"}},
    },
}


@dataclass(frozen=True)
class Crd:
    """One served version of a custom resource."""

    group: str
    version: str
    kind: str
    raw: Document
    """OpenAPI schema as in the CRD, with its `x-kubernetes-…` keys."""
    closed: Document
    """JSON Schema made of it."""


def load_crds(directory: Path, kinds: set[str]) -> dict[tuple[str, str], Crd]:
    """CRDs of the named kinds in the YAML files of a folder, by (apiVersion, kind)."""
    out = {}
    for path in sorted(directory.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if not kinds.intersection(re.findall(r"^\s+kind: (\w+)$", text, re.MULTILINE)):
            continue  # parsing a megabyte of YAML takes longer than everything else here
        for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            for crd in crds_in(document):
                out[f"{crd.group}/{crd.version}", crd.kind] = crd
    return out


def crds_in(document: Document) -> Iterator[Crd]:
    """The served versions of one CustomResourceDefinition document."""
    spec = document["spec"]
    for version in spec["versions"]:
        if version.get("served"):
            raw = version["schema"]["openAPIV3Schema"]
            kind = spec["names"]["kind"]
            yield Crd(spec["group"], version["name"], kind, raw, _closed(raw, root=True))


def check_custom(document: Document, crd: Crd) -> list[str]:
    """Everything that the CRD has against a document."""
    filled = _with_defaults(copy.deepcopy(document), crd.raw)
    validator = jsonschema.Draft202012Validator(crd.closed)
    problems = [_say(error) for error in validator.iter_errors(filled)]
    return sorted(problems) + (list(_cel(filled, crd.raw, "")) if not problems else [])


def check_core(document: Document) -> list[str] | None:
    """What the schema of a built-in kind has against a document; None for a kind that Kubernetes does not bring."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return None
    except kubernetes_validate.ValidationError as error:
        return [_say(error)]
    return []


def _say(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    return f"{path}: {error.message[:300]}" if path else error.message[:300]


def _closed(schema: Document, *, root: bool = False) -> Document:
    """OpenAPI schema of a CRD -> JSON Schema that refuses unknown fields."""
    if schema.get("x-kubernetes-int-or-string"):
        out: Document = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        if "pattern" in schema:
            out["pattern"] = schema["pattern"]
        return out
    out = {k: v for k, v in schema.items() if not k.startswith("x-") and k not in ("default", "description", "format")}
    for key in ("allOf", "anyOf", "oneOf"):
        if key in out:
            out[key] = [_closed(s) if "properties" in s else s for s in out[key]]
    if "items" in out:
        out["items"] = _closed(out["items"])
    if "properties" in out:
        out["properties"] = {k: _closed(v) for k, v in out["properties"].items()}
    if isinstance(out.get("additionalProperties"), dict):
        out["additionalProperties"] = _closed(out["additionalProperties"])
    if root:
        out["properties"] = {"apiVersion": {}, "kind": {}, "metadata": _METADATA} | {
            k: v for k, v in out["properties"].items() if k not in ("apiVersion", "kind", "metadata")
        }
    preserves = schema.get("x-kubernetes-preserve-unknown-fields")
    if out.get("type") == "object" and "additionalProperties" not in out and not preserves:
        out["additionalProperties"] = False
    return {"anyOf": [out, {"type": "null"}]} if schema.get("nullable") else out


def _with_defaults(value: Any, schema: Document) -> Any:
    """The server fills in defaults before it looks for required fields."""
    if isinstance(value, dict):
        for key, below in schema.get("properties", {}).items():
            if key not in value and "default" in below:
                value[key] = copy.deepcopy(below["default"])
            if key in value:
                value[key] = _with_defaults(value[key], below)
    elif isinstance(value, list) and "items" in schema:
        value = [_with_defaults(item, schema["items"]) for item in value]
    return value


def _cel(value: Any, schema: Document, path: str) -> Iterator[str]:
    """Failed validation rules of a value and of everything in it."""
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue  # about updates; there is nothing before the first apply
        try:
            holds = bool(_program(rule["rule"]).evaluate({"self": celpy.json_to_cel(value)}))
        except celpy.CELEvalError as error:
            yield f"{path}: rule {rule['rule']!r} cannot be evaluated: {error}"
            continue
        if not holds:
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        below = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        for key, item in value.items():
            inner = below.get(key) or (rest if isinstance(rest, dict) else None)
            if inner is not None:
                yield from _cel(item, inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _cel(item, schema["items"], f"{path}.{index}")


@lru_cache(maxsize=256)
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
