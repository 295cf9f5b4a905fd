"""How actors are made: the one place that applies `ray.remote`, with names, resources and restart rules."""

from __future__ import annotations

from typing import Any

import ray

from mlora_ray.actors.host import HostActor
from mlora_ray.actors.placement import PlacementActor
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.errors import MloraError
from mlora_ray.types import HostSettings

NAMESPACE = "mlora"
CALLS_AT_ONCE = 16  # a tick is answered while states are handed over or an evaluation runs
ON_THE_HEAD = {"node:__internal_head__": 0.001}  # on a worker it would keep the node busy, and die with a spot machine


def start_placement(settings: ServiceSettings) -> Any:
    """The placement actor of this name, started if there is none. It outlives its driver, and Ray restarts it."""
    remote = ray.remote(PlacementActor).options(
        name=settings.name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        resources=ON_THE_HEAD,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=CALLS_AT_ONCE,
    )
    return remote.remote(settings, start_host, find_host)


def find_placement(name: str) -> Any:
    """Raises MloraError when no service of this name is on the cluster."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError as error:
        raise MloraError(f"no placement service {name!r} is on this cluster") from error


def start_host(settings: HostSettings) -> Any:
    """A host actor, waiting for a node if need be; `describe` answers when its base is loaded.

    It outlives the placement actor. Ray does not restart it: placement replaces it, so that its jobs are fenced first.
    """
    remote = ray.remote(HostActor).options(
        name=settings.actor_name,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        label_selector=dict(settings.labels) or None,
        max_restarts=0,
        max_concurrency=CALLS_AT_ONCE,
    )
    return remote.remote(settings)


def find_host(actor_name: str) -> Any:
    """Raises ValueError when there is none."""
    return ray.get_actor(actor_name, namespace=NAMESPACE)
