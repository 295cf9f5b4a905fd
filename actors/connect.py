"""A cluster and its placement service as the commands reach them: with a deadline, and every error a plain line."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mlora_ray.actors.client import Service
from mlora_ray.control.transport import HOST_PREFIX
from mlora_ray.errors import InputError, MloraError, command_line_mistake

REACH_TIMEOUT_S = 5.0  # to open a connection; a cluster that is there answers in milliseconds
# Read when ray is imported. Its own patience with an address where no cluster is: two minutes.
RAY_PATIENCE = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}


@contextmanager
def on_cluster(address: str) -> Iterator[None]:
    """This process as a driver of the cluster at `address`. Raises InputError when it cannot be one."""
    if "://" not in address and ":" in address:
        _check_listens(address)
    for name, value in RAY_PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, OSError, RayError) as error:
        raise _unreachable(address, error) from error
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; after ray.init, which sets its own
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def running_service(name: str) -> Service | None:
    """The service of that name, if the cluster has it."""
    from mlora_ray.actors.options import find_placement

    try:
        return Service(find_placement(name), name)
    except MloraError:
        return None


def find_service(name: str) -> Service:
    """Raises InputError that says which services there are, and how to start one."""
    if found := running_service(name):
        return found
    here = service_names()
    is_there = f"this cluster has: {', '.join(here)}" if here else "this cluster has none"
    raise command_line_mistake("--service", name, f"a running service; {is_there}. `mlora-ray submit` starts one")


def service_names() -> list[str]:
    """Names of the placement actors."""
    from ray.util import list_named_actors

    from mlora_ray.actors.options import NAMESPACE

    named = [a["name"] for a in list_named_actors(all_namespaces=True) if a["namespace"] == NAMESPACE]
    return sorted(name for name in named if not name.startswith(HOST_PREFIX))


def _check_listens(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> InputError:
    """What Ray, or the socket, said, as what to do about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].split(". ")[0] if lines else type(error).__name__
    if address.startswith(("http://", "https://")):
        said = "this is the dashboard's; jobs are submitted to it with `ray job submit`"
    elif "token" in said:
        said = f"{said} (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
    elif said.startswith("Failed to connect to Ray cluster"):
        said = "what listens there is not Ray's GCS, or wants another token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
    return command_line_mistake(
        "--address", address, f"the address of a running Ray cluster, such as 10.0.0.1:6379 or auto: {said}"
    )
