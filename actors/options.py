"""How actors are made: the one place that applies `ray.remote`, with names, resources and restart rules."""

from __future__ import annotations

from typing import Any

import ray

from mlora_ray.actors.host import HostActor
from mlora_ray.actors.placement import PlacementActor
from mlora_ray.run_facts import PlacementSettings
from mlora_ray.types import HostSettings

NAMESPACE = "mlora"
PLACEMENT_NAME = "placement"
CALLS_AT_ONCE = 8  # a tick is answered while a save or an evaluation runs


def start_placement(settings: PlacementSettings) -> Any:
    """The placement actor. It owns its hosts: they end with it.

    Not restarted by Ray: a run that loses it ends, and resumes from the database.
    """
    remote = ray.remote(PlacementActor).options(
        name=f"{PLACEMENT_NAME}-{settings.run_id}",
        namespace=NAMESPACE,
        num_cpus=0,
        max_restarts=0,
        max_concurrency=CALLS_AT_ONCE,
    )
    return remote.remote(settings, start_host)


def start_host(settings: HostSettings) -> Any:
    """A host actor; returns at once, `describe` answers when its base is loaded.

    Not restarted by Ray: placement replaces it, so that its jobs are fenced first.
    """
    remote = ray.remote(HostActor).options(
        namespace=NAMESPACE,
        num_cpus=settings.threads,
        num_gpus=1 if settings.device.startswith("cuda") else 0,
        max_restarts=0,
        max_concurrency=CALLS_AT_ONCE,
    )
    return remote.remote(settings)
