"""A Ray cluster of several raylets on this machine, its GCS on Redis, and every way to break it.

Each worker node has room for one host. The harness reaps what it kills: workers of a raylet that is a zombie live on.
Servers are started by the main thread, whoever asks for it: they die with the thread that started them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

NUM_WORKERS = 3
LABELS = {"mlora": "worker"}
WAIT_S = 120.0
NUM_STARTS, LATE = 3, "timed out during startup"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
    "RAY_preallocate_plasma_memory": "0",
    "RAY_worker_niceness": "5",  # Ray gives 15: on a busy machine its workers would wait for everybody
    "OMP_WAIT_POLICY": "passive",
}


class NotInstalled(Exception):
    """Says what is missing: a reason to skip."""


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """The first answer that is true. Raises AssertionError when none comes in time."""
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


class Machines:
    """A head without room for hosts, and worker nodes by slot."""

    def __init__(self, cpus_per_worker: int = 1) -> None:
        if shutil.which("redis-server") is None:
            raise NotInstalled("redis-server is not installed: the GCS could not be restarted")
        self.folder = Path(tempfile.mkdtemp(prefix="mlora-chaos-", dir="/tmp"))
        self._cpus = cpus_per_worker
        self._gcs = threading.RLock()  # adding a node waits for a GCS that is away
        self._wanted: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._before = dict(os.environ)
        self._redis: subprocess.Popen[bytes] | None = None
        self._nodes_changed = threading.Condition()
        self._taken: set[int] = set()
        self.nodes: dict[int, Any] = {}
        try:
            self._start()
            for slot in range(NUM_WORKERS):
                self.add_node(slot)
        except BaseException:
            self.stop()
            raise

    @classmethod
    def started(cls) -> Machines:
        """On a busy machine Ray's 30 s for a head are too few at times: once more then."""
        for _ in range(NUM_STARTS - 1):
            try:
                return cls()
            except Exception as error:
                if LATE not in str(error):
                    raise
        return cls()

    def _start(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        port = _free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._redis = subprocess.Popen([*command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)
        (self.folder / "ray").mkdir()
        ours = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}", "RAY_external_storage_namespace": uuid.uuid4().hex}
        os.environ.update({**ENVIRONMENT, **ours, "RAY_TMPDIR": str(self.folder)})
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "dashboard_port": _free_port(),
            "object_store_memory": 100 << 20,
        }
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "temp_dir": str(self.folder)})
        self.address = str(self.cluster.address)  # asked of the cluster while its GCS is away, there is none
        ray.init(address=self.address, log_to_driver=False, namespace="mlora", logging_level="error")

    def stop(self) -> None:
        """End every process of this cluster, and no other."""
        import ray

        ray.shutdown()
        with contextlib.suppress(AttributeError):
            self.cluster.shutdown()
        for process in self.processes():
            process.kill()
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        os.environ.clear()
        os.environ.update(self._before)
        shutil.rmtree(self.folder, ignore_errors=True)

    def on_main(self, start: Callable[[], Any]) -> Any:
        """Have the main thread do this: at once if it asks itself, else in its next `serve`."""
        if threading.current_thread() is threading.main_thread():
            return start()
        done: Future[Any] = Future()
        self._wanted.put((start, done))
        return done.result(WAIT_S)

    def serve(self) -> None:
        """Do what other threads have asked of the main thread."""
        while not self._wanted.empty():
            start, done = self._wanted.get()
            try:
                done.set_result(start())
            except BaseException as error:  # noqa: BLE001 - raised by who asked
                done.set_exception(error)

    # -- nodes

    def add_node(self, slot: int) -> None:
        """Returns when Ray knows it."""
        import ray

        with self._gcs:
            given = {"num_cpus": self._cpus, "labels": LABELS, "object_store_memory": 80 << 20, "wait": False}
            node = self.on_main(partial(self._new_node, given))
            self.nodes[slot] = node
            wait_for(lambda: node.node_id in _alive(ray.nodes()), f"node {slot}")
        with self._nodes_changed:
            self._taken.discard(slot)
            self._nodes_changed.notify_all()

    def _new_node(self, given: dict[str, Any]) -> Any:
        for _ in range(NUM_STARTS - 1):
            try:
                return self.cluster.add_node(**given)
            except Exception as error:
                if LATE not in str(error):
                    raise
        return self.cluster.add_node(**given)

    def take(self, target: int) -> int:
        """The slot of a node that nothing else breaks, until `add_node` of it; waits for one."""
        with self._nodes_changed:
            assert self._nodes_changed.wait_for(lambda: len(self._taken) < NUM_WORKERS, WAIT_S), "every node is broken"
            free = [slot for slot in range(NUM_WORKERS) if slot not in self._taken]
            self._taken.add(slot := free[target % len(free)])
            return slot

    def slot_of(self, node_id: str) -> int | None:
        return next((slot for slot, node in self.nodes.items() if node.node_id == node_id), None)

    def signal_raylet(self, slot: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._raylet(slot).pid, number)

    def kill_node(self, slot: int) -> None:
        """SIGKILL to its raylet; its workers end because of that."""
        raylet = self._raylet(slot)
        raylet.kill()
        self._forget(slot, raylet)

    def wait_for_raylet_to_end(self, slot: int) -> None:
        self._forget(slot, self._raylet(slot))

    def _forget(self, slot: int, raylet: subprocess.Popen[bytes]) -> None:
        node = self.nodes.pop(slot)
        self.cluster.worker_nodes.discard(node)
        raylet.wait(timeout=WAIT_S)
        node.kill_all_processes(check_alive=False, allow_graceful=False)

    def is_node_alive(self, node_id: str) -> bool:
        import ray

        with self._gcs:
            return node_id in _alive(ray.nodes())

    def drain_node(self, slot: int, notice_s: float) -> None:
        """A spot notice: nothing new comes there, and the node goes at the deadline, which is the caller's to do."""
        import ray
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + notice_s) * 1000)
        with self._gcs:
            client = ray._private.worker.global_worker.gcs_client
            is_accepted, why = client.drain_node(self.nodes[slot].node_id, reason, "spot notice", deadline_ms)
            assert is_accepted, why

    def restart_gcs(self, away_s: float) -> None:
        with self._gcs:
            self.cluster.head_node.kill_gcs_server()
            time.sleep(away_s)
            self.on_main(self.cluster.head_node.start_gcs_server)

    def _raylet(self, slot: int) -> Any:
        return self.nodes[slot].all_processes["raylet"][0].process

    # -- processes

    def actors(self, class_name: str) -> list[psutil.Process]:
        """Processes of actors of this class, orphans too."""
        return [p for p in self.processes() if _title(p).startswith(f"ray::{class_name}")]

    def processes(self) -> Iterator[psutil.Process]:
        """Whatever writes its output into this cluster's folder."""
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/fd/1").startswith(f"{self.folder}/"):
                    yield process


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _alive(nodes: list[dict[str, Any]]) -> set[str]:
    return {n["NodeID"] for n in nodes if n["Alive"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
