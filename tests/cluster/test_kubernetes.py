"""The Kubernetes files against the schemas of their kinds, and as Ray's own autoscaler reads them."""

import copy
import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from stic_ray import job_specs
from tests.cluster.cluster_files import CLUSTER, ROOT, check, execution, pools_problem, read, read_all

_OWN = {"RayCluster", "RayJob"}
_FILES = sorted(path.name for path in (CLUSTER / "kubernetes").glob("*.yaml"))
_VERSION = "1.34"  # of Kubernetes

Tree = dict[str, Any]


def _check(document: Tree) -> None:
    """Raises ValidationError unless a document is as its kind wants it."""
    if document.get("kind") not in _OWN:
        kubernetes_validate.validate(document, _VERSION, strict=True)
        return
    check(document, "ray_kinds.json")
    for template in _templates(document):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
        kubernetes_validate.validate(pod, _VERSION, strict=True)


def _cluster(document: Tree) -> Tree:
    spec: Tree = document["spec"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


def _templates(document: Tree) -> list[Tree]:
    cluster = _cluster(document)
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def _autoscaling(document: Tree) -> Tree:
    """What Ray's autoscaler makes of a RayCluster."""
    cluster = {"metadata": {"name": "stic-ray", "namespace": "default"}, "spec": _cluster(document)}
    config: Tree = _derive_autoscaling_config_from_ray_cr(cluster)
    return config


@pytest.mark.parametrize("name", _FILES)
def test_kubernetes_file_is_as_its_kinds_want_it(name: str) -> None:
    documents = read_all(f"kubernetes/{name}")
    assert documents
    for document in documents:
        _check(document)


def _group(document: Tree, name: str) -> Tree:
    return next(group for group in _cluster(document)["workerGroupSpecs"] if group["groupName"] == name)


def _misspell_group_field(document: Tree) -> None:
    group = _group(document, "gpu")
    group["minReplica"] = group.pop("minReplicas")


def _text_for_number(document: Tree) -> None:
    _group(document, "gpu")["maxReplicas"] = "4"


def _number_for_start_parameter(document: Tree) -> None:
    _cluster(document)["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _misspell_pod_field(document: Tree) -> None:
    pod = _group(document, "gpu-spot")["template"]["spec"]
    pod["toleration"] = pod.pop("tolerations")


def _misspell_container_field(document: Tree) -> None:
    container = _group(document, "cpu")["template"]["spec"]["containers"][0]
    container["envfrom"] = container.pop("envFrom")


def _unknown_version(document: Tree) -> None:
    _cluster(document)["autoscalerOptions"]["version"] = "v3"


def _misspell_option(document: Tree) -> None:
    options = _cluster(document)["autoscalerOptions"]
    options["idleTimeoutMinutes"] = options.pop("idleTimeoutSeconds")


def _old_api(document: Tree) -> None:
    document["apiVersion"] = "ray.io/v1alpha2"


@pytest.mark.parametrize(
    "damage",
    [
        _misspell_group_field,
        _text_for_number,
        _number_for_start_parameter,
        _misspell_pod_field,
        _misspell_container_field,
        _unknown_version,
        _misspell_option,
        _old_api,
    ],
)
@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_damaged_ray_file_is_refused(name: str, damage: Callable[[Tree], None]) -> None:
    document = copy.deepcopy(read(f"kubernetes/{name}.yaml"))
    damage(document)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _check(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [("backofLimit", 3), ("backoffLimit", -1), ("shutdownAfterJobFinishes", False), ("entrypointNumCpus", "1")],
)
def test_damaged_job_is_refused(field: str, value: object) -> None:
    document = copy.deepcopy(read("kubernetes/rayjob.yaml"))
    document["spec"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        _check(document)


def test_damaged_claim_is_refused() -> None:
    document = read("kubernetes/shared-volume.yaml")
    document["spec"]["accessMode"] = document["spec"].pop("accessModes")
    with pytest.raises(kubernetes_validate.ValidationError):
        _check(document)


def test_job_and_cluster_have_the_same_pools_word_for_word() -> None:
    assert read("kubernetes/rayjob.yaml")["spec"]["rayClusterSpec"] == read("kubernetes/raycluster.yaml")["spec"]


def test_pools_have_room_for_the_run() -> None:
    assert pools_problem(_autoscaling(read("kubernetes/raycluster.yaml")), execution()) == ""


@pytest.mark.parametrize(
    ("group", "field", "value", "problem"),
    [
        ("gpu", "minReplicas", 1, "a GPU node stays"),
        ("gpu-spot", "minReplicas", 1, "a GPU node stays"),
        ("gpu", "maxReplicas", 3, "a training does not fit|beyond the GPUs"),
        ("gpu-spot", "maxReplicas", 7, "beyond the GPUs"),
        ("cpu", "minReplicas", 0, "always has a node"),
        ("cpu", "rayStartParams", {}, "no pool"),
        ("gpu", "resources", {"CPU": "2", "GPU": "1"}, "fewer than the 4 cores"),
    ],
)
def test_pools_without_room_are_found(group: str, field: str, value: object, problem: str) -> None:
    document = copy.deepcopy(read("kubernetes/raycluster.yaml"))
    _group(document, group)[field] = value
    assert re.search(problem, pools_problem(_autoscaling(document), execution()))


def test_pools_spot_is_preferred_and_told_apart() -> None:
    cluster = read("kubernetes/raycluster.yaml")
    spot, lasting = _group(cluster, "gpu-spot"), _group(cluster, "gpu")
    assert spot["priority"] > lasting.get("priority", 0)
    assert spot["labels"] != lasting["labels"]
    terms = _node_terms(spot)
    (refused,) = _node_terms(lasting)
    # What asks for a spot node in one cloud is what the others refuse in all of them.
    wanted = {(match["key"], *match["values"]) for term in terms for match in term if match["operator"] == "In"}
    assert wanted == {(match["key"], *match["values"]) for match in refused if match["operator"] == "NotIn"}
    tolerated = {toleration["key"] for toleration in spot["template"]["spec"]["tolerations"]}
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "nvidia.com/gpu"} <= tolerated


def _node_terms(group: Tree) -> list[list[Tree]]:
    affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [term["matchExpressions"] for term in terms]


def test_cluster_is_what_autoscaler_and_image_need() -> None:
    cluster = read("kubernetes/raycluster.yaml")["spec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] >= 30
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["template"]["spec"]["restartPolicy"] == "Never"
        assert group["replicas"] == group["minReplicas"]


def test_pods_run_as_nobody_special_and_drain_within_their_grace() -> None:
    environment = next(each for each in read_all("kubernetes/settings.yaml") if each["kind"] == "ConfigMap")["data"]
    for template in _templates(read("kubernetes/raycluster.yaml")):
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]
        assert "lifecycle" not in container
        resources = container["resources"]
        assert all(resources["requests"][kind] == amount for kind, amount in resources["limits"].items())


def test_pods_get_settings_and_secrets_by_reference_to_what_is_there() -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in read_all("kubernetes/settings.yaml")}
    said = (CLUSTER / "kubernetes" / "settings.yaml").read_text()
    for template in _templates(read("kubernetes/raycluster.yaml")):
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        assert "env" not in container
        environment, secrets = container["envFrom"]
        assert ("ConfigMap", environment["configMapRef"]["name"]) in there
        assert f"create secret generic {secrets['secretRef']['name']} " in said
        (volume,) = pod["volumes"]
        assert f"create configmap {volume['configMap']['name']} --from-file=cluster/run.yaml" in said


def test_job_runs_what_the_image_has_on_a_file_that_pods_mount() -> None:
    job = read("kubernetes/rayjob.yaml")["spec"]
    program, flag, path = shlex.split(job["entrypoint"])
    assert program == job_specs.PIPELINE.console and flag == "--config"
    mounts = {
        mount["mountPath"]
        for template in _templates(read("kubernetes/rayjob.yaml"))
        for mount in template["spec"]["containers"][0]["volumeMounts"]
    }
    assert path == f"{mounts.pop()}/run.yaml" and not mounts
    assert json.loads(job["entrypointResources"]) == {"driver": 1}
    assert job["backoffLimit"] >= 1 and job["shutdownAfterJobFinishes"]


def test_docs_volume_goes_into_the_cluster() -> None:
    """What docs/clusters.md says to add for store and runs on a shared volume."""
    text = (ROOT / "docs" / "clusters.md").read_text()
    added = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    claim = read("kubernetes/shared-volume.yaml")
    cluster = copy.deepcopy(read("kubernetes/raycluster.yaml"))
    (volume,), (mount,) = added["volumes"], added["volumeMounts"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert volume["name"] == mount["name"]
    for template in _templates(cluster):
        template["spec"]["volumes"].append(volume)
        template["spec"]["containers"][0]["volumeMounts"].append(mount)
    _check(cluster)
