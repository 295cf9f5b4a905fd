"""cluster.yaml's node types on a real autoscaler with fake machines: where does each host type of the settings land?

Run by test_autoscaling.py in a process of its own. Prints a line of JSON: host type to the labels of its node.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0


class Host:
    """Asks of Ray what a host of ours asks; see actors/options.py."""

    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


def main() -> int:
    import ray

    from mlora_ray.benchmarks.fake_nodes import FakeNodes, NodeType
    from mlora_ray.config.cluster_settings import read_settings

    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    types = [
        NodeType(name, one["resources"]["CPU"], one["labels"], one["max_workers"], one["resources"].get("GPU", 0))
        for name, one in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    ]
    settings = read_settings(
        str(ROOT / "deploy/settings.yaml"), {"MLORA_STORAGE": "s3://a/b", "MLORA_DATABASE": "postgresql+psycopg://c/d"}
    )
    with FakeNodes(types) as nodes:
        ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        hosts = {
            one.name: ray.remote(Host)
            .options(num_cpus=one.num_cpus, num_gpus=one.num_gpus, label_selector=dict(one.labels))
            .remote()
            for one in settings.host_types
        }
        found = {name: ray.get(host.node.remote(), timeout=DEADLINE_S) for name, host in hosts.items()}
        labels = {node["NodeID"]: node["Labels"] for node in ray.nodes() if node["Alive"]}
        ray.shutdown()
    print(
        json.dumps(
            {name: {key: labels[node][key] for key in ("market", "accelerator")} for name, node in found.items()}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
