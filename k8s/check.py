"""Read the kustomizations as a cluster would, without one: `make k8s-check CRDS=DIR`.

Builds each kustomization, and holds every document against the schemas (KubeRay's CRDs with unknown fields refused
and their validation rules; the core schemas) and against the controller's own rules.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from k8s import kustomize, rules, schema
from k8s.schema import Crd, Document

HERE = Path(__file__).parent
KUSTOMIZATIONS = ("base", "overlays/dev", "overlays/gpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Check all kustomizations; returns 0 if nothing is wrong, 1 if something is, 2 without CRDs."""
    parser = argparse.ArgumentParser(prog="make k8s-check", description=__doc__)
    parser.add_argument("--crds", metavar="DIR", default="", help="folder with KubeRay's CRDs as YAML")
    parser.add_argument("kustomizations", nargs="*", type=Path, default=[HERE / name for name in KUSTOMIZATIONS])
    arguments = parser.parse_args(argv)
    folder = Path(arguments.crds)
    if not arguments.crds or not any(folder.glob("*.yaml")):
        _say(f"no CRDs in {arguments.crds!r}: say `make k8s-check CRDS=DIR`")
        _say("  -> KubeRay has them in its folder helm-chart/kuberay-operator/crds")
        return 2
    built = {path: build(path) for path in arguments.kustomizations}
    kinds = {document["kind"] for documents, _ in built.values() for document in documents}
    crds = schema.load_crds(folder, kinds)
    failed = 0
    for path, (documents, problems) in built.items():
        problems = [*problems, *check(documents, crds)]
        failed += bool(problems)
        _say(f"{path}: {len(documents)} documents, {len(problems)} problems")
        for problem in problems:
            _say(f"  {problem}")
    return 1 if failed else 0


def build(directory: Path) -> tuple[list[Document], list[str]]:
    """Documents of a kustomization, and where kubectl, if it is installed, builds something else."""
    documents = kustomize.build(directory)
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return documents, []
    run = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=False)
    if run.returncode:
        return documents, [f"kubectl kustomize: {run.stderr.strip()}"]
    theirs = [document for document in yaml.safe_load_all(run.stdout) if document]
    ours, theirs = sorted(documents, key=_identity), sorted(theirs, key=_identity)
    if ours == theirs:
        return documents, []
    differ = [_identity(a) for a, b in zip(ours, theirs, strict=False) if a != b] or [("number of documents",)]
    return documents, [f"kubectl kustomize builds another {' '.join(d)}" for d in differ]


def check(documents: Sequence[Document], crds: dict[tuple[str, str], Crd] | None) -> list[str]:
    """Everything that is wrong with the documents, each as `Kind/name: where: what`.

    With CRDs, a kind that neither they nor Kubernetes knows is an error: unchecked must not look like checked.
    Without (None), custom resources are held against the controller's rules and their pods' schemas alone.
    """
    problems = []
    for document in documents:
        name = f"{document['kind']}/{document.get('metadata', {}).get('name', '?')}"
        found = _against_schema(document, crds) or rules.check(document)
        problems += [f"{name}: {problem}" for problem in found]
    return problems


def _against_schema(document: Document, crds: dict[tuple[str, str], Crd] | None) -> list[str]:
    kind = document["apiVersion"], document["kind"]
    if crds is not None and kind in crds:
        return schema.check_custom(document, crds[kind])
    found = schema.check_core(document)
    if found is not None:
        return found
    return [] if crds is None else [f"no schema for {' '.join(kind)}"]


def _identity(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
