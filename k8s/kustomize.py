"""Build a kustomization in plain Python: the part of kustomize that these manifests use, and nothing else.

A field that is not known here is an error, never ignored, so what this builds is what `kubectl kustomize` builds
(`k8s.check` compares the two wherever kubectl is installed).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

_HEADER = {"apiVersion", "kind"}
_CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass"}


def build(directory: Path) -> list[Document]:
    """All documents of a kustomization, in the order of its resources.

    Raises:
        KustomizeError: a file is missing, or the kustomization uses a feature that this builder does not have.
    """
    path = directory / "kustomization.yaml"
    spec = _read_one(path)
    unknown = set(spec) - _HEADER - {"resources", "generatorOptions"} - set(_STEPS)
    if unknown:
        raise KustomizeError(f"{path}: {', '.join(sorted(unknown))}: not known to this builder")
    documents = [document for entry in spec.get("resources", []) for document in _resource(directory / entry)]
    for field, step in _STEPS.items():
        if field in spec:
            documents = step(documents, spec[field], directory, spec)
    return documents


def read(path: Path) -> list[Document]:
    """The YAML documents of one file, empty ones left out."""
    try:
        found = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]
    except FileNotFoundError:
        raise KustomizeError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise KustomizeError(f"{path}: not valid YAML: {error}") from None
    # Through JSON, so that what an anchor and its aliases name are separate values, and a patch changes only one.
    documents: list[Document] = json.loads(json.dumps(found, default=str))
    return documents


def _read_one(path: Path) -> Document:
    documents = read(path)
    if len(documents) != 1:
        raise KustomizeError(f"{path}: expected one document, found {len(documents)}")
    return documents[0]


def _resource(path: Path) -> list[Document]:
    return build(path) if path.is_dir() else read(path)


def _config_maps(documents: list[Document], entries: Any, directory: Path, spec: Document) -> list[Document]:
    if not spec.get("generatorOptions", {}).get("disableNameSuffixHash"):
        # The hash would not reach the references inside a RayJob, which kustomize does not know.
        raise KustomizeError(f"{directory}: configMapGenerator needs generatorOptions.disableNameSuffixHash: true")
    out = list(documents)
    for entry in entries:
        unknown = set(entry) - {"name", "files", "literals", "behavior"}
        if unknown:
            raise KustomizeError(f"{directory}: configMapGenerator {', '.join(sorted(unknown))}: not known")
        data = dict(_literals(entry)) | dict(_files(entry, directory))
        known = [d for d in out if d["kind"] == "ConfigMap" and d["metadata"]["name"] == entry["name"]]
        behavior = entry.get("behavior", "create")
        if (behavior == "create") == bool(known):
            state = "there already" if known else "not there"
            raise KustomizeError(f"{directory}: cannot {behavior} config map {entry['name']}: it is {state}")
        if behavior == "create":
            out.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": data})
        else:
            known[0]["data"] = data if behavior == "replace" else known[0]["data"] | data
    return out


def _literals(entry: Document) -> Iterator[tuple[str, str]]:
    for literal in entry.get("literals", []):
        key, _, value = literal.partition("=")
        yield key, value


def _files(entry: Document, directory: Path) -> Iterator[tuple[str, str]]:
    for file in entry.get("files", []):
        key, sign, path = file.partition("=")
        source = directory / (path if sign else file)
        if not source.is_file():
            raise KustomizeError(f"{source}: no such file")
        yield (key if sign else source.name), source.read_text(encoding="utf-8")


def _namespace(documents: list[Document], name: Any, _directory: Path, _spec: Document) -> list[Document]:
    for document in documents:
        if document["kind"] not in _CLUSTER_SCOPED:
            document["metadata"]["namespace"] = name
    return documents


def _labels(documents: list[Document], entries: Any, directory: Path, _spec: Document) -> list[Document]:
    for entry in entries:
        if set(entry) != {"pairs"}:
            raise KustomizeError(f"{directory}: labels: only `pairs` is known, without selectors and templates")
        for document in documents:
            document["metadata"].setdefault("labels", {}).update(entry["pairs"])
    return documents


def _images(documents: list[Document], entries: Any, directory: Path, _spec: Document) -> list[Document]:
    for entry in entries:
        if set(entry) - {"name", "newName", "newTag"}:
            raise KustomizeError(f"{directory}: images: only name, newName and newTag are known")
        for container in (c for document in documents for c in _containers(document)):
            name, _, tag = container.get("image", "").partition(":")
            if name == entry["name"]:
                container["image"] = f"{entry.get('newName', name)}:{entry.get('newTag', tag)}"
    return documents


def _containers(node: Any) -> Iterator[Document]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers") and isinstance(value, list):
                yield from value
            yield from _containers(value)
    elif isinstance(node, list):
        for item in node:
            yield from _containers(item)


def _patches(documents: list[Document], entries: Any, directory: Path, _spec: Document) -> list[Document]:
    for entry in entries:
        if set(entry) - {"target", "path", "patch"} or set(entry.get("target", {})) - {"kind", "name"}:
            raise KustomizeError(f"{directory}: patches: only target (kind, name) with path or patch is known")
        text = entry["patch"] if "patch" in entry else (directory / entry["path"]).read_text(encoding="utf-8")
        operations = yaml.safe_load(text)
        if not isinstance(operations, list):
            raise KustomizeError(f"{directory}: patches: only JSON 6902 lists of operations are known")
        target = entry["target"]
        hit = [d for d in documents if _matches(d, target)]
        if not hit:
            raise KustomizeError(f"{directory}: patches: nothing matches {target}")
        for document in hit:
            for operation in operations:
                _apply(document, operation, str(directory))
    return documents


def _matches(document: Document, target: Document) -> bool:
    name = document["metadata"]["name"]
    return document["kind"] == target.get("kind", document["kind"]) and name == target.get("name", name)


def _apply(document: Document, operation: Document, where: str) -> None:
    """One JSON Patch operation (RFC 6902), in place: add, replace, remove, test."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    try:
        node: Any = document
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        key: Any = len(node) if last == "-" else int(last) if isinstance(node, list) else last
        if operation["op"] == "add" and isinstance(node, list):
            node.insert(key, copy.deepcopy(operation["value"]))
            return
        if operation["op"] != "add":
            present = node[key]  # replace, remove and test need something there
        if operation["op"] == "remove":
            del node[key]
        elif operation["op"] in ("add", "replace"):
            node[key] = copy.deepcopy(operation["value"])
        elif operation["op"] != "test" or present != operation["value"]:
            raise KustomizeError(f"{where}: patch {operation} does not hold")
    except (KeyError, IndexError, ValueError, TypeError):
        raise KustomizeError(f"{where}: patch {operation['op']} {operation['path']}: no such place") from None


class KustomizeError(ValueError):
    """The kustomization cannot be built."""


# In kustomize's own order: generators first, patches before the transformers.
_STEPS: dict[str, Callable[[list[Document], Any, Path, Document], list[Document]]] = {
    "configMapGenerator": _config_maps,
    "patches": _patches,
    "namespace": _namespace,
    "labels": _labels,
    "images": _images,
}
