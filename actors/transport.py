"""`fleet.Transport` over Ray: launch and find hosts, wait for answers, carry states, watch nodes, ask for nodes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
from ray.exceptions import RayError

from mlora_ray.actors.host_connection import RayHostConnection
from mlora_ray.actors.ray_errors import one_line
from mlora_ray.types import Assignment, HostSettings

RELEASE_TIMEOUT_S = 60.0  # it waits for the end of a step; a source that dies or hangs is seen sooner, by its ticks
MOVE_TIMEOUT_S = 65.0
NODES_EVERY_S = 1.0

log = logging.getLogger(__name__)


class RayMove:
    """A state on its way from one host actor to another; it passes through the object store only."""

    def __init__(self, source: Any, target: Any, assignment: Assignment, old_epoch: int) -> None:
        moved = source.release_state.remote(assignment.spec.name, old_epoch, RELEASE_TIMEOUT_S)
        self._received = target.receive.remote(assignment, moved, RELEASE_TIMEOUT_S)
        self._began_s = time.monotonic()

    def outcome(self) -> str | None:
        """None while it is on its way, then empty or why it failed."""
        ready, _ = ray.wait([self._received], timeout=0)
        if not ready:
            return f"not there within {MOVE_TIMEOUT_S:g} s" if self._is_late() else None
        try:
            ray.get(self._received, timeout=MOVE_TIMEOUT_S)
        except RayError as error:
            return one_line(error)
        return ""

    def _is_late(self) -> bool:
        return time.monotonic() - self._began_s > MOVE_TIMEOUT_S


class RayTransport:
    """Everything that asks the GCS runs in threads of its own: a GCS that is away stops no tick."""

    def __init__(self, start: Callable[[HostSettings], Any], find: Callable[[str], Any]) -> None:
        self._start, self._find = start, find
        self._makers = ThreadPoolExecutor(8, thread_name_prefix="making")
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="asking")
        self._draining: dict[str, float] = {}
        self._requested: list[tuple[dict[str, float], dict[str, str]]] | None = None
        threading.Thread(target=self._watch_nodes, name="nodes", daemon=True).start()

    def launch(self, settings: HostSettings) -> RayHostConnection:
        return RayHostConnection(self._makers.submit(self._start, settings))

    def adopt(self, actor_name: str) -> RayHostConnection:
        """A line to a host that a placement actor before this one started."""
        return RayHostConnection(self._makers.submit(self._find, actor_name))

    def wait(self, lines: Sequence[RayHostConnection], timeout_s: float) -> None:
        """Return when all have answered, or after `timeout_s`."""
        asked = [line.asked for line in lines if line.asked is not None]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=timeout_s)

    def move(
        self, source: RayHostConnection, target: RayHostConnection, assignment: Assignment, old_epoch: int
    ) -> RayMove:
        return RayMove(source.actor, target.actor, assignment, old_epoch)

    def draining(self) -> Mapping[str, float]:
        """Node id to the time (Unix epoch, s) at which a draining node will be gone."""
        return self._draining

    def request(self, wanted: Sequence[HostSettings]) -> None:
        """Tell the autoscaler which hosts there should be room for; none: let every node go."""
        shapes = [_shape(s) for s in sorted(wanted, key=lambda s: s.id)]
        if shapes != self._requested:
            self._requested = shapes
            self._asker.submit(self._ask_for, shapes)

    def _ask_for(self, shapes: list[tuple[dict[str, float], dict[str, str]]]) -> None:
        if not _request(shapes):
            self._requested = None  # said again at the next tick

    def close(self) -> Future[bool]:
        """Let every node go."""
        return self._asker.submit(_request, [])

    def _watch_nodes(self) -> None:
        while True:
            try:
                self._draining = _draining_nodes()
            except Exception as error:  # noqa: BLE001 - the GCS is away: what was known holds
                log.warning("draining nodes are unknown: %s", error)
            time.sleep(NODES_EVERY_S)


def _shape(settings: HostSettings) -> tuple[dict[str, float], dict[str, str]]:
    resources = {"CPU": settings.num_cpus} | ({"GPU": settings.num_gpus} if settings.num_gpus else {})
    return resources, dict(settings.labels)


def _request(shapes: Sequence[tuple[dict[str, float], dict[str, str]]]) -> bool:
    """False where it could not be said."""
    from ray.autoscaler.sdk import request_resources

    try:
        bundles, selectors = [bundle for bundle, _ in shapes], [labels for _, labels in shapes]
        request_resources(bundles=bundles, bundle_label_selectors=selectors if any(selectors) else None)
    except Exception as error:  # noqa: BLE001 - no autoscaler, or the GCS is away: hosts are pending actors, that is enough
        log.warning("the autoscaler cannot be asked: %s", error)
        return False
    return True


def _draining_nodes() -> dict[str, float]:
    client = ray._private.worker.global_worker.gcs_client
    now_s = time.time()
    return {node: ms / 1000 if ms else now_s for node, ms in client.get_draining_nodes(timeout=5).items()}


def cluster_name() -> str:
    """This Ray cluster, as a person and the lease tell it from another."""
    client = ray._private.worker.global_worker.gcs_client
    return f"the Ray cluster at {client.address} ({client.cluster_id.hex()[:8]})"


def was_restarted() -> bool:
    """Whether this actor's process replaces one that died."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)
