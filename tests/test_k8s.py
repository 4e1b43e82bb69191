"""The manifests build, pass every rule, and the check sees each fault that is put in."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import check, kustomize, rules, schema
from pipeline import recipe

REPO = Path(__file__).parent.parent
K8S = REPO / "k8s"
Fault = Callable[[dict[str, Any]], Any]

# The shape of KubeRay's CRD in small: enough to see that each kind of constraint is held.
SMALL_CRD = """
kind: CustomResourceDefinition
metadata: {name: rayjobs.ray.io}
spec:
  group: ray.io
  names:
    kind: RayJob
  versions:
    - name: v1
      served: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [entrypoint, backoffLimit]
              properties:
                entrypoint: {type: string}
                backoffLimit: {type: integer, format: int32, default: 0}
                size: {x-kubernetes-int-or-string: true, pattern: "^[0-9]+(Gi)?$"}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true}
                groups:
                  type: array
                  items:
                    type: object
                    properties:
                      name: {type: string}
                      labels: {type: object, additionalProperties: {type: string}}
                strategy:
                  type: object
                  properties:
                    rules: {type: array, items: {type: string}}
                    policy: {type: string}
                  x-kubernetes-validations:
                    - {rule: "!(has(self.rules) && has(self.policy))", message: rules and policy exclude each other}
                    - {rule: self == oldSelf, message: immutable}
"""


@pytest.fixture
def job() -> dict[str, Any]:
    """The base's RayJob, to put a fault in."""
    return next(d for d in kustomize.build(K8S / "base") if d["kind"] == "RayJob")


@pytest.fixture
def small(tmp_path: Path) -> Callable[[dict[str, Any]], list[str]]:
    (tmp_path / "rayjobs.yaml").write_text(SMALL_CRD)
    crds = schema.load_crds(tmp_path, {"RayJob"})

    def run(spec: dict[str, Any]) -> list[str]:
        document = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "train"}, "spec": spec}
        return schema.check_custom(document, crds["ray.io/v1", "RayJob"])

    return run


@pytest.mark.parametrize("name", check.KUSTOMIZATIONS)
def test_the_kustomizations_build_and_break_no_rule(name: str) -> None:
    documents, problems = check.build(K8S / name)
    assert problems + check.check(documents, None) == []
    assert sorted(d["kind"] for d in documents) == [
        "ConfigMap",
        "ConfigMap",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "RayJob",
        "ServiceAccount",
    ]


@pytest.mark.parametrize("name", check.KUSTOMIZATIONS)
def test_the_recipe_and_its_overrides_are_valid_and_fit_the_cluster(name: str, tmp_path: Path) -> None:
    documents = kustomize.build(K8S / name)
    job = next(d for d in documents if d["kind"] == "RayJob")
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    (tmp_path / "recipe.yaml").write_text(maps["segpipe-recipe"]["recipe.yaml"])
    python, flag, module, path, *rest = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module, path) == ("python", "-m", "jobs.train", "/etc/segpipe/recipe.yaml")
    section = recipe.load(tmp_path / "recipe.yaml", [word for word in rest if "=" in word]).compute
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    there, wanted = group["replicas"] * int(limits["cpu"]), section.num_workers * section.cpus_per_worker
    assert wanted + section.data_cpus <= there
    assert group["replicas"] * int(limits.get("nvidia.com/gpu", 0)) == section.num_workers * section.gpus_per_worker


def test_ray_is_the_one_of_the_image(job: dict[str, Any]) -> None:
    pinned = dict(line.split("==") for line in (REPO / "constraints.txt").read_text().split())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]


def test_references_between_the_documents_resolve() -> None:
    documents = kustomize.build(K8S / "base")
    maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    policy = next(d for d in documents if d["kind"] == "NetworkPolicy")
    job = next(d for d in documents if d["kind"] == "RayJob")
    for _, template in rules.pods(job):
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        named = {v["configMap"]["name"] for v in spec["volumes"] if "configMap" in v}
        named |= {e["configMapRef"]["name"] for e in spec["containers"][0].get("envFrom", []) if "configMapRef" in e}
        assert named <= maps
        assert {m["name"] for m in spec["containers"][0]["volumeMounts"]} <= {v["name"] for v in spec["volumes"]}


def cluster_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


def head_of(job: dict[str, Any]) -> dict[str, Any]:
    return cluster_of(job)["headGroupSpec"]


def spec_of(job: dict[str, Any], group: str = "head") -> dict[str, Any]:
    owner = head_of(job) if group == "head" else cluster_of(job)["workerGroupSpecs"][0]
    return owner["template"]["spec"]


# fmt: off
FAULTS: list[tuple[str, Fault]] = [
    ("submissionMode: 'K8SJobMode' is none of", lambda j: j["spec"].update(submissionMode="K8SJobMode")),
    ("has no effect without shutdown", lambda j: j["spec"].pop("shutdownAfterJobFinishes")),
    ("48 characters, a RayJob may have 47", lambda j: j["metadata"].update(name="a" * 48)),
    ("'1train' is no DNS-1035 label", lambda j: j["metadata"].update(name="1train")),
    ("rayVersion: missing", lambda j: cluster_of(j).pop("rayVersion")),
    ("2.50.0 has no token", lambda j: cluster_of(j).update(rayVersion="2.50.0")),
    ("without `token` whoever reaches", lambda j: cluster_of(j).pop("authOptions")),
    ("enableK8sTokenAuth: refused", lambda j: cluster_of(j)["authOptions"].update(enableK8sTokenAuth=True)),
    ("spec.entrypoint: $ ; would act in the submitter", lambda j: j["spec"].update(entrypoint="python -m x; y $HOME")),
    ("spec.entrypoint: missing", lambda j: j["spec"].pop("entrypoint")),
    ("runtimeEnvYAML: everything is in the image", lambda j: j["spec"].update(runtimeEnvYAML="pip: [x]")),
    ("exclusive with rayClusterSpec", lambda j: j["spec"].update(clusterSelector={"ray.io/cluster": "c"})),
    ("backoffLimit: not with clusterSelector", lambda j: j["spec"].update(clusterSelector={"ray.io/cluster": "c"})),
    ("backoffLimit: not with InteractiveMode", lambda j: j["spec"].update(submissionMode="InteractiveMode")),
    ("submitterPodTemplate: not with SidecarMode", lambda j: j["spec"].update(submissionMode="SidecarMode")),
    ("suspend: needs shutdown", lambda j: j["spec"].update(suspend=True, shutdownAfterJobFinishes=False)),
    ("is not below activeDeadlineSeconds", lambda j: j["spec"].update(activeDeadlineSeconds=3600)),
    ("backoffLimit: -1 is negative", lambda j: j["spec"].update(backoffLimit=-1)),
    ("deletionRules: exclusive", lambda j: j["spec"].update(deletionStrategy={"deletionRules": [{}]})),
    ("replicas 5 not in 2..2", lambda j: cluster_of(j)["workerGroupSpecs"][0].update(replicas=5)),
    ("two groups are named 'workers'", lambda j: cluster_of(j).update(
        workerGroupSpecs=cluster_of(j)["workerGroupSpecs"] * 2)),
    ("without enableInTreeAutoscaling", lambda j: cluster_of(j).update(autoscalerOptions={"version": "v2"})),
    ('num-cpus: must be "0"', lambda j: head_of(j)["rayStartParams"].clear()),
    ("rayStartParams.labels: refused", lambda j: head_of(j)["rayStartParams"].update(labels="a=b")),
    ("image 'segpipe:latest' is not pinned", lambda j: spec_of(j)["containers"][0].update(image="segpipe:latest")),
    ("image 'registry:80/x' is not pinned", lambda j: spec_of(j)["containers"][0].update(image="registry:80/x")),
    ("runAsNonRoot is not true", lambda j: spec_of(j, "worker").pop("securityContext")),
    ("capabilities.drop is not [ALL]", lambda j: spec_of(j)["containers"][0]["securityContext"].pop("capabilities")),
    ("no memory limit", lambda j: spec_of(j, "worker")["containers"][0]["resources"].pop("limits")),
    ("AWS_SECRET_ACCESS_KEY in plain sight", lambda j: spec_of(j)["containers"][0].update(
        env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}])),
    ("'container' was unexpected", lambda j: spec_of(j).update(container=[])),
]
# fmt: on


@pytest.mark.parametrize(("message", "fault"), FAULTS, ids=[message for message, _ in FAULTS])
def test_each_seeded_fault_is_seen(message: str, fault: Fault, job: dict[str, Any]) -> None:
    fault(job)
    assert message in "\n".join(check.check([job], None))


def test_a_core_object_with_an_unknown_field_is_refused() -> None:
    budget = next(d for d in kustomize.build(K8S / "base") if d["kind"] == "PodDisruptionBudget")
    budget["spec"]["maxUnavailible"] = budget["spec"].pop("maxUnavailable")
    [problem] = check.check([budget], None)
    assert problem.startswith("PodDisruptionBudget/segpipe-head: spec") and "maxUnavailible" in problem


def test_the_crd_schema_is_closed_and_its_rules_hold(small: Callable[[dict[str, Any]], list[str]]) -> None:
    good = {"entrypoint": "python", "size": "2Gi", "free": {"any": 1}, "strategy": {"policy": "x"}}
    assert small(good) == []
    assert small(good | {"size": 3, "groups": [{"name": "a", "labels": {"any": "x"}}]}) == []
    assert "'entryPoint' was unexpected" in small(good | {"entryPoint": "python"})[0]
    assert "groups.0: Additional properties" in small(good | {"groups": [{"title": "a"}]})[0]
    assert "spec.backoffLimit: 'two' is not of type 'integer'" in small(good | {"backoffLimit": "two"})
    assert "'entrypoint' is a required property" in small({})[0]
    assert "does not match" in small(good | {"size": "2 Gi"})[0]
    both = {"entrypoint": "python", "strategy": {"policy": "x", "rules": ["a"]}}
    assert small(both) == ["spec.strategy: rules and policy exclude each other"]


def test_without_its_crd_a_ray_object_does_not_pass_for_checked(job: dict[str, Any]) -> None:
    assert check.check([job], {}) == ["RayJob/train: no schema for ray.io/v1 RayJob"]


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    crds, broken = tmp_path / "crds", tmp_path / "broken"
    crds.mkdir()
    broken.mkdir()
    (crds / "rayjobs.yaml").write_text(SMALL_CRD)
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "t"}, "spec": {"entrypont": "python"}}
    (broken / "job.yaml").write_text(yaml.safe_dump(job))
    (broken / "kustomization.yaml").write_text("resources: [job.yaml]")
    run = subprocess.run(
        [sys.executable, "-m", "k8s.check", "--crds", str(crds), str(broken)],
        capture_output=True,
        text=True,
        cwd=REPO,
        check=False,
    )
    assert run.returncode == 1
    assert "RayJob/t: spec: Additional properties are not allowed ('entrypont' was unexpected)" in run.stdout
    assert check.main(["--crds", str(tmp_path / "nowhere")]) == 2


def test_the_builder_does_what_kustomize_does(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/app.yaml").write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: app}, spec: &s {containers: [{name: a, image: 'app:1'}]}}\n"
        "---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: app}}\n"
    )
    (tmp_path / "base/settings.txt").write_text("a: b\n")
    (tmp_path / "base/kustomization.yaml").write_text(
        "resources: [app.yaml]\ngeneratorOptions: {disableNameSuffixHash: true}\n"
        "configMapGenerator: [{name: settings, files: [s=settings.txt], literals: [level=1=2]}]\n"
    )
    (tmp_path / "kustomization.yaml").write_text(
        "namespace: here\nresources: [base]\ngeneratorOptions: {disableNameSuffixHash: true}\n"
        "configMapGenerator: [{name: settings, behavior: merge, literals: [more=x]}]\n"
        "images: [{name: app, newName: reg/app, newTag: '2'}]\nlabels: [{pairs: {part: all}}]\n"
        "patches:\n  - target: {kind: Pod}\n    patch: |\n"
        "      - {op: add, path: /spec/containers/0/env, value: [{name: A, value: b}]}\n"
        "      - {op: add, path: /metadata/annotations, value: {a~b/c: d}}\n"
        "      - {op: test, path: /metadata/annotations/a~0b~1c, value: d}\n"
        "      - {op: add, path: /spec/containers/-, value: {name: z, image: app}}\n"
    )
    documents, problems = check.build(tmp_path)
    pod, account, settings = documents
    assert problems == []  # where kubectl is installed, it built the same
    containers = [
        {"name": "a", "image": "reg/app:2", "env": [{"name": "A", "value": "b"}]},
        {"name": "z", "image": "reg/app:2"},
    ]
    assert pod["spec"]["containers"] == containers
    assert pod["metadata"]["annotations"] == {"a~b/c": "d"}
    assert account["metadata"] == {"name": "app", "namespace": "here", "labels": {"part": "all"}}
    assert settings["data"] == {"s": "a: b\n", "level": "1=2", "more": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: [a.yaml]\n", "a.yaml: no such file"),
        ("namePrefix: x\n", "namePrefix: not known to this builder"),
        ("configMapGenerator: [{name: a}]\n", "needs generatorOptions.disableNameSuffixHash"),
        ("patches: [{target: {kind: Pod}, patch: '[]'}]\n", "nothing matches {'kind': 'Pod'}"),
        ("labels: [{pairs: {}, includeSelectors: true}]\n", "only `pairs` is known"),
    ],
)
def test_what_the_builder_does_not_know_it_refuses(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(text)
    with pytest.raises(kustomize.KustomizeError, match=re.escape(message)):
        kustomize.build(tmp_path)


INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}


def dockerfile() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (K8S / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]


def test_the_image_has_a_pinned_base_and_does_not_run_as_root() -> None:
    lines = dockerfile()
    assert {word for word, _ in lines} <= INSTRUCTIONS
    for base in (rest for word, rest in lines if word == "FROM"):
        assert re.fullmatch(r"python:3\.11-slim-\w+( AS \w+)?", base)
    assert [rest for word, rest in lines if word == "USER"][-1] == "1000"
    assert not any(re.search("SECRET|TOKEN|PASSWORD", rest) for word, rest in lines if word == "ENV")
    for source in (rest.split()[0] for word, rest in lines if word == "COPY" and "--from" not in rest):
        assert (REPO / source).exists()
    kept = (REPO / ".dockerignore").read_text().split()
    assert {"!constraints.txt", "!pyproject.toml", "!README.md", "!pipeline", "!jobs"} <= set(kept)


def test_the_image_is_installed_as_make_setup_installs() -> None:
    def words(text: str) -> list[str]:
        [line] = re.findall(r"uv pip install .*", text)
        return re.sub(r"\$\(BIN\)|/opt/venv/bin", "BIN", line).split()

    ours, theirs = words((K8S / "Dockerfile").read_text()), words((REPO / "Makefile").read_text())
    only_for_tests = ["--group", "dev", "--editable"]
    assert ours == [word for word in theirs if word not in only_for_tests]


def test_hadolint_has_nothing_against_the_dockerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([linter, str(K8S / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")
