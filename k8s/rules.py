"""What no schema says: the rules of KubeRay's controller (its `validation.go`), and our own about safe pods.

Each rule takes a document and yields what is wrong. A document that breaks a rule of the controller passes the API
server and then never runs, or runs otherwise than meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from k8s.schema import Document, check_core

Rule = Callable[[Document], Iterator[str]]

_NAME_LENGTHS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# The submitter puts the entrypoint unquoted into a `bash -c "…"`.
_SHELL = re.compile(r"[;&|<>$`\\\"'(){}*?!#\n]")
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY(?!_ID$)", re.IGNORECASE)


def check(document: Document) -> list[str]:
    """All rules on one document; other kinds than Ray's have none."""
    return [problem for rule in _RULES.get(document["kind"], ()) for problem in rule(document)]


def pods(document: Document) -> Iterator[tuple[str, Document]]:
    """Path and template of every pod that a Ray object describes."""
    spec = document["spec"]
    cluster = _cluster(document)
    if "submitterPodTemplate" in spec:
        yield "spec.submitterPodTemplate", spec["submitterPodTemplate"]
    if "headGroupSpec" in cluster:
        yield "headGroupSpec.template", cluster["headGroupSpec"].get("template") or {}
    for index, group in enumerate(cluster.get("workerGroupSpecs", [])):
        yield f"workerGroupSpecs.{index}.template", group.get("template") or {}


def _cluster(document: Document) -> Document:
    spec: Document = document["spec"]
    return spec if document["kind"] == "RayCluster" else spec.get("rayClusterSpec") or {}


def _name(document: Document) -> Iterator[str]:
    name, limit = document["metadata"]["name"], _NAME_LENGTHS[document["kind"]]
    if len(name) > limit:
        yield f"metadata.name: {len(name)} characters, a {document['kind']} may have {limit}"
    if not _LABEL.fullmatch(name):
        yield f"metadata.name: {name!r} is no DNS-1035 label (lower case, digits, hyphens, begins with a letter)"


def _submission(document: Document) -> Iterator[str]:
    spec = document["spec"]
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield f"spec.submissionMode: {mode!r} is none of {', '.join(_MODES)}"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "spec.backoffLimit: not with InteractiveMode"
    if mode == "HTTPMode" and "submitterPodTemplate" in spec:
        yield "spec.submitterPodTemplate: HTTPMode has no submitter"
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if key in spec:
                yield f"spec.{key}: not with SidecarMode"
        head = _cluster(document).get("headGroupSpec", {}).get("template", {}).get("spec", {})
        if head.get("restartPolicy") not in (None, "Never"):
            yield "headGroupSpec.template.spec.restartPolicy: must be Never with SidecarMode"
    if mode != "InteractiveMode" and not spec.get("entrypoint"):
        yield "spec.entrypoint: missing"


def _entrypoint(document: Document) -> Iterator[str]:
    found = sorted(set(_SHELL.findall(document["spec"].get("entrypoint", ""))))
    if found:
        yield f"spec.entrypoint: {' '.join(found)} would act in the submitter's shell; use one simple command"
    if "$" in document["spec"].get("runtimeEnvYAML", ""):
        yield "spec.runtimeEnvYAML: $ is expanded in the submitter's shell"
    if document["spec"].get("runtimeEnvYAML"):
        yield "spec.runtimeEnvYAML: everything is in the image; nothing is installed at run time"


def _lifetime(document: Document) -> Iterator[str]:
    spec = document["spec"]
    shutdown, ttl = spec.get("shutdownAfterJobFinishes", False), spec.get("ttlSecondsAfterFinished", 0)
    if ttl and not shutdown:
        yield "spec.ttlSecondsAfterFinished: has no effect without shutdownAfterJobFinishes: true"
    for key in ("ttlSecondsAfterFinished", "backoffLimit"):
        if spec.get(key, 0) < 0:
            yield f"spec.{key}: {spec[key]} is negative"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"spec.{key}: {spec[key]} must be positive"
    if spec.get("suspend") and not shutdown:
        yield "spec.suspend: needs shutdownAfterJobFinishes: true"
    before, whole = spec.get("preRunningDeadlineSeconds"), spec.get("activeDeadlineSeconds")
    if before and whole and before >= whole:
        yield f"spec.preRunningDeadlineSeconds: {before} is not below activeDeadlineSeconds {whole}"
    if spec.get("deletionStrategy", {}).get("deletionRules") and (shutdown or ttl):
        yield "spec.deletionStrategy.deletionRules: exclusive with shutdownAfterJobFinishes and ttlSecondsAfterFinished"


def _selector(document: Document) -> Iterator[str]:
    spec = document["spec"]
    if not spec.get("clusterSelector"):
        if "rayClusterSpec" not in spec:
            yield "spec.rayClusterSpec: missing, and there is no clusterSelector"
        return
    if "rayClusterSpec" in spec:
        yield "spec.clusterSelector: exclusive with rayClusterSpec"
    if spec.get("backoffLimit"):
        yield "spec.backoffLimit: not with clusterSelector"
    if spec.get("suspend"):
        yield "spec.suspend: not with clusterSelector"
    if spec.get("shutdownAfterJobFinishes"):
        yield "spec.shutdownAfterJobFinishes: a selected cluster is not ours to shut down"


def _auth(document: Document) -> Iterator[str]:
    cluster = _cluster(document)
    auth, version = cluster.get("authOptions", {}), cluster.get("rayVersion")
    if auth.get("mode") != "token":
        yield "authOptions.mode: without `token` whoever reaches the job server runs code"
    elif not version:
        yield "rayVersion: missing; authOptions needs it"
    elif tuple(int(part) for part in version.split(".")[:2]) < (2, 52):
        yield f"rayVersion: {version} has no token authentication, which began with 2.52"
    if auth.get("enableK8sTokenAuth") and document["kind"] != "RayCluster":
        yield f"authOptions.enableK8sTokenAuth: refused for a {document['kind']}"


def _groups(document: Document) -> Iterator[str]:
    cluster = _cluster(document)
    head = cluster.get("headGroupSpec", {})
    names = [group.get("groupName") for group in cluster.get("workerGroupSpecs", [])]
    for name in {n for n in names if names.count(n) > 1}:
        yield f"workerGroupSpecs: two groups are named {name!r}"
    for where, group in [("headGroupSpec", head), *zip(names, cluster.get("workerGroupSpecs", []), strict=True)]:
        if "labels" in group.get("rayStartParams", {}):
            yield f"{where}.rayStartParams.labels: refused; use the group's `labels`"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory"} & set(group.get("rayStartParams", {})):
            yield f"{where}: resources are said twice, in `resources` and in rayStartParams"
    for group in cluster.get("workerGroupSpecs", []):
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not least <= group.get("replicas", least) <= most:
            yield f"{group.get('groupName')}: replicas {group.get('replicas')} not in {least}..{most}"
        if group.get("idleTimeoutSeconds") and not cluster.get("enableInTreeAutoscaling"):
            yield f"{group.get('groupName')}.idleTimeoutSeconds: only with enableInTreeAutoscaling"
    if cluster.get("autoscalerOptions") and not cluster.get("enableInTreeAutoscaling"):
        yield "autoscalerOptions: without enableInTreeAutoscaling: true nothing reads it"
    if head and head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield 'headGroupSpec.rayStartParams.num-cpus: must be "0", or workers are placed where the driver runs'


def _autoscaler(document: Document) -> Iterator[str]:
    if _cluster(document).get("autoscalerOptions", {}).get("version") != "v2":
        return
    for path, template in pods(document):
        if path.startswith("spec."):
            continue
        if template.get("spec", {}).get("restartPolicy") not in (None, "Never"):
            yield f"{path}.spec.restartPolicy: must be Never with autoscaler v2"


def _templates(document: Document) -> Iterator[str]:
    """Every pod template is a valid pod by itself."""
    for path, template in pods(document):
        parts = {"metadata": template.get("metadata", {}), "spec": template.get("spec")}
        pod = {"apiVersion": "v1", "kind": "Pod"} | parts
        yield from (f"{path}.{problem}" for problem in check_core(pod) or ())


def _safe(document: Document) -> Iterator[str]:
    """Pod Security `restricted`, pinned images, no secrets in plain sight."""
    for path, template in pods(document):
        spec = template.get("spec") or {}
        outer = spec.get("securityContext", {})
        if not outer.get("runAsNonRoot"):
            yield f"{path}: securityContext.runAsNonRoot is not true"
        if outer.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{path}: securityContext.seccompProfile is not RuntimeDefault"
        for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
            yield from _safe_container(f"{path}: container {container.get('name')}", container)


def _safe_container(where: str, container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation is not false"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{where}: capabilities.drop is not [ALL]"
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield f"{where}: image {image!r} is not pinned by a tag or digest"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield f"{where}: no memory limit; Ray sizes its object store by it"
    for variable in container.get("env", []):
        if "value" in variable and _SECRET_NAME.search(variable["name"]):
            yield f"{where}: {variable['name']} in plain sight; take it from a Secret"


_SHARED: tuple[Rule, ...] = (_name, _auth, _groups, _autoscaler, _templates, _safe)
_RULES: dict[str, tuple[Rule, ...]] = {
    "RayCluster": _SHARED,
    "RayJob": (*_SHARED, _submission, _entrypoint, _lifetime, _selector),
}
