"""A Ray cluster on this machine whose autoscaler (v2) really starts and ends nodes, each a raylet of its own.

Started by hand, as `ray.cluster_utils.AutoscalingCluster` runs `ray stop`, which ends every Ray on the machine; ended
by process id. The head has no CPUs, so that every host needs a node.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import psutil

HEAD_ID = "f" * 51 + "00000"  # the provider's own name for the head
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
START_TIMEOUT_S = 120.0
START_ATTEMPTS = 4
END_TIMEOUT_S = 20.0
OBJECT_STORE_BYTES = 100_000_000
# The monitor dies without these, and only monitor.err says so.
EMPTY_LISTS = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "initialization_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class NodeType(NamedTuple):
    """A kind of node: its CPUs, its labels, how many there may be, and the GPUs it says it has."""

    name: str
    num_cpus: int
    labels: Mapping[str, str]
    max_workers: int
    num_gpus: int = 0


class FakeNodes:
    """The cluster, as a context: `with FakeNodes([...]) as nodes: ray.init(nodes.address)`."""

    def __init__(self, types: Sequence[NodeType], idle_s: float = 6.0) -> None:
        self._types, self._idle_s = types, idle_s
        self._folder = Path(tempfile.mkdtemp(prefix="mlf-", dir="/tmp"))  # a socket's path must stay short
        self.address = ""

    def __enter__(self) -> FakeNodes:
        """Ray gives its head 30 s to come up, whatever the machine has to do: it is tried again."""
        try:
            for attempt in range(START_ATTEMPTS):
                said = self._start_head(attempt)
                if not said:
                    return self
                self._end_processes()
            raise RuntimeError(f"ray start failed {START_ATTEMPTS} times; the last:\n{said}")
        except BaseException:
            self.stop()
            raise

    def _start_head(self, attempt: int) -> str:
        """Empty, or what a `ray start` that failed has said."""
        from ray.util import get_node_ip_address

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self.address = f"{get_node_ip_address()}:{port}"
        config = self._folder / "autoscaling.json"
        config.write_text(json.dumps(self._config()), encoding="utf-8")
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--num-cpus=0"]
        command += [f"--autoscaling-config={config}", f"--temp-dir={self._folder}/{attempt}"]
        command += ["--include-dashboard=false", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        done = subprocess.run(
            command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=START_TIMEOUT_S
        )
        return (done.stdout + done.stderr)[-2000:] if done.returncode else ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End the cluster and remove what it wrote."""
        self._end_processes()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end_processes(self) -> None:
        """Every process of this cluster, those that start meanwhile included."""
        while found := self._processes():
            for process in found:
                if process.is_running():
                    process.kill()
            psutil.wait_procs(found, END_TIMEOUT_S)

    def kill_node(self, node_id: str) -> None:
        """kill -9 of the node's raylet: as if its machine had been taken away."""
        for process in self._processes():
            if process.name() == "raylet" and process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING") == node_id:
                process.kill()
                return
        raise RuntimeError(f"node {node_id} has no raylet here")

    def trouble(self) -> str:
        """What the autoscaler's monitor has complained of, if it died."""
        return "\n".join(
            path.read_text(errors="replace")[-2000:] for path in self._folder.glob("*/session_latest/logs/monitor.err")
        )

    def _processes(self) -> list[psutil.Process]:
        """Those that name our folder, and theirs."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(str(self._folder) in part for part in process.cmdline()):
                    found |= {one.pid: one for one in (process, *process.children(recursive=True))}
            except psutil.Error:  # it ended while we looked
                continue
        return list(found.values())

    def _config(self) -> dict[str, object]:
        nodes = {
            one.name: {
                "resources": {
                    "CPU": one.num_cpus,
                    "object_store_memory": OBJECT_STORE_BYTES,
                    **({"GPU": one.num_gpus} if one.num_gpus else {}),
                },
                "labels": dict(one.labels),
                "min_workers": 0,
                "max_workers": one.max_workers,
                "node_config": {},
            }
            for one in self._types
        }
        head = {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}}
        provider = {"type": "external", "module": PROVIDER, "gcs_address": self.address}
        return {
            "cluster_name": "fake",
            "max_workers": sum(one.max_workers for one in self._types),
            "idle_timeout_minutes": self._idle_s / 60,
            "upscaling_speed": 1.0,
            "provider": {**provider, "launch_multiple": True, "head_node_id": HEAD_ID},
            "head_node_type": "ray.head.default",
            "available_node_types": {"ray.head.default": head, **nodes},
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in EMPTY_LISTS},
        }
