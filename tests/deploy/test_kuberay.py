"""The manifests for Kubernetes: their form, what they refer to, and what Ray's own autoscaler makes of the clusters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlora_ray.config.cluster_settings import read_settings
from mlora_ray.types import HostType
from tests.deploy.manifests import find_mistakes, read

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kuberay"
OBJECTS = [(path.name, one) for path in sorted(FOLDER.glob("*.yaml")) for one in read(path)]
CLUSTER_KEYS = {"RayCluster": "spec", "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
ENVIRONMENT = {"MLORA_STORAGE": "s3://bucket/mlora", "MLORA_DATABASE": "postgresql+psycopg://mlora@db/mlora"}


def clusters() -> list[tuple[str, dict[str, Any]]]:
    """(kind, RayClusterSpec) of every object that makes a cluster."""
    found = []
    for _, one in OBJECTS:
        if key := CLUSTER_KEYS.get(one["kind"]):
            found.append((one["kind"], one["spec"] if key == "spec" else one["spec"][key]))
    return found


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, pod spec) of every pod there is."""
    for kind, cluster in clusters():
        for group in groups(cluster):
            yield f"{kind} {group.get('groupName', 'head')}", group["template"]["spec"]
    for name, one in OBJECTS:
        if one["kind"] == "StatefulSet":
            yield name, one["spec"]["template"]["spec"]
        if one["kind"] == "RayJob":
            yield "submitter", one["spec"]["submitterPodTemplate"]["spec"]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for _, one in OBJECTS if one["kind"] == kind}


@pytest.mark.parametrize(("name", "one"), OBJECTS, ids=lambda value: value if isinstance(value, str) else value["kind"])
def test_objects_have_the_form_of_their_kind(name: str, one: dict[str, Any]) -> None:
    assert find_mistakes(one) == []
    assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "mlora"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("spec.authOption = {mode: token}", "authOption"),
        ("spec.authOptions.mode = password", "'password' is not one of"),
        ("spec.autoscalerOptions.version = v3", "'v3' is not one of"),
        ("spec.workerGroupSpecs.0.maxReplicas = four", "'four' is not of type 'integer'"),
        ("spec.workerGroupSpecs.0.rayStartParams = {num-cpus: 4}", "4 is not of type 'string'"),
        ("spec.headGroupSpec.template.spec.restartpolicy = Never", "no field 'restartpolicy'"),
        ("spec.headGroupSpec.template.spec.containers.0.env = {A: b}", "is not a list"),
        ("spec.headGroupSpec.template.spec.containers.0.name = null", "field 'name' of V1Container is required"),
        ("spec.headGroupSpec.template.spec.securityContext.runAsUser = root", "'root' is not of type int"),
        ("spec.gcsFaultToleranceOptions = {redisPassword: {value: a}}", "'redisAddress' is a required property"),
    ],
)
def test_the_check_finds_mistakes(change: str, said: str) -> None:
    cluster = copy.deepcopy(named("RayCluster")["mlora"])
    where, _, value = change.partition(" = ")
    *parents, last = where.split(".")
    at: Any = cluster
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    if value == "null":
        del at[last]
    else:
        at[last] = yaml.safe_load(value)
    assert any(said in mistake for mistake in find_mistakes(cluster)), find_mistakes(cluster)


@pytest.mark.parametrize(("kind", "cluster"), clusters(), ids=[kind for kind, _ in clusters()])
def test_rays_own_autoscaler_reads_the_cluster(kind: str, cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {"metadata": {"name": "mlora", "namespace": "mlora"}, "spec": cluster}
    config = _derive_autoscaling_config_from_ray_cr(resource)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    for group in cluster["workerGroupSpecs"]:
        seen = types[group["groupName"]]
        assert seen["labels"] == group["labels"]
        assert (seen["min_workers"], seen["max_workers"]) == (group["minReplicas"], group["maxReplicas"])
        assert seen["min_workers"] <= group["replicas"] <= seen["max_workers"]
        assert seen["resources"].get("GPU", 0) == (0 if group["labels"]["accelerator"] == "none" else 1)


def fits(host: HostType, cluster: dict[str, Any]) -> bool:
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        is_fitting = set(host.labels) <= set(group["labels"].items()) and int(limits["cpu"]) >= host.num_cpus
        if is_fitting and int(limits.get("nvidia.com/gpu", 0)) >= host.num_gpus:
            return (group["labels"]["market"] == "spot") == host.is_spot
    return False


def test_settings_are_right_and_every_host_type_has_its_worker_group(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(named("ConfigMap")["mlora-settings"]["data"]["settings.yaml"], encoding="utf-8")
    settings = read_settings(str(path), ENVIRONMENT)
    on_machines = read_settings(str(ROOT / "deploy/settings.yaml"), ENVIRONMENT)
    assert settings.autoscale == on_machines.autoscale
    cluster = named("RayCluster")["mlora"]["spec"]
    assert [host.name for host in settings.host_types if not fits(host, cluster)] == []
    assert settings.autoscale.node_idle_timeout_s == cluster["autoscalerOptions"]["idleTimeoutSeconds"]


@pytest.mark.parametrize(("kind", "cluster"), clusters(), ids=[kind for kind, _ in clusters()])
def test_clusters_are_closed_and_alike(kind: str, cluster: dict[str, Any]) -> None:
    import ray

    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for group in groups(cluster):
        assert group["template"]["spec"]["restartPolicy"] == "Never", "autoscaler v2 asks for it"
        assert len(group["template"]["spec"]["containers"]) == 1
        assert "metrics" in [port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]]


@pytest.mark.parametrize(("where", "pod"), list(pods()), ids=[where for where, _ in pods()])
def test_pods_run_as_nobody_special_within_limits(where: str, pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        name, _, tag = container["image"].rpartition(":")
        assert name, container["image"]
        assert tag != "latest"
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_workers_on_spot_machines_are_tolerated_and_leave_in_time() -> None:
    for _, cluster in clusters():
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert command[:-1] == ["python", "-m", "mlora_ray.actors.spot_notice", "--leave-in"]
            assert float(command[-1]) < pod["terminationGracePeriodSeconds"]
            keys = {one["key"] for one in pod.get("tolerations", [])}
            assert ("cloud.google.com/gke-spot" in keys) == (group["labels"]["market"] == "spot")
            assert ("nvidia.com/gpu" in keys) == (group["labels"]["accelerator"] != "none")


def references(value: Any) -> Iterator[tuple[str, str, str]]:
    """(kind, name, key) of every Secret, ConfigMap and ServiceAccount that an object asks for."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        if "secretKeyRef" in value:
            yield "Secret", value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
        if "configMap" in value:
            yield "ConfigMap", value["configMap"]["name"], ""
        if "serviceAccountName" in value:
            yield "ServiceAccount", value["serviceAccountName"], ""
        for item in value.values():
            yield from references(item)


def test_what_is_asked_for_is_there() -> None:
    asked = {one for _, item in OBJECTS for one in references(item)}
    assert {kind for kind, _, _ in asked} == {"Secret", "ConfigMap", "ServiceAccount"}
    for kind, name, key in asked:
        assert name in named(kind), (kind, name)
        assert not key or key in named(kind)[name]["stringData"], (name, key)
    address = named("RayCluster")["mlora"]["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
    host, _, port = address.partition(":")
    assert named("Service")[host]["spec"]["ports"][0]["port"] == int(port)


def test_budgets_and_policies_select_the_clusters_pods() -> None:
    stay = {kind: cluster for kind, cluster in clusters() if kind != "RayJob"}
    heads = [cluster["headGroupSpec"]["template"]["metadata"]["labels"] for cluster in stay.values()]
    for budget in named("PodDisruptionBudget").values():
        labels = dict(budget["spec"]["selector"]["matchLabels"])
        assert labels.pop("ray.io/node-type") == "head"
        heads.remove(labels)
        # Pods of a controller that Kubernetes does not know: its documentation allows nothing but this.
        assert budget["spec"]["minAvailable"] == 1
    assert heads == []
    reached = named("NetworkPolicy")["mlora-ray"]["spec"]
    assert reached["podSelector"] == {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}
    assert all("from" in rule for rule in reached["ingress"]), "a rule without `from` lets everybody in"


def test_secrets_are_examples_only() -> None:
    for secret in named("Secret").values():
        assert all("CHANGE-ME" in value for value in secret["stringData"].values())
