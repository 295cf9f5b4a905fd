"""A cluster and its placement service, reached or started: with a deadline, and every error a plain line."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlora_ray.actors.client import START_TIMEOUT_S, Service
from mlora_ray.actors.ray_errors import first_line
from mlora_ray.control.transport import HOST_PREFIX
from mlora_ray.errors import InputError, MloraError, command_line_mistake

if TYPE_CHECKING:
    from mlora_ray.config.service_settings import ServiceSettings

REACH_TIMEOUT_S = 5.0  # to open a connection; a cluster that is there answers in milliseconds
# Read when ray is imported. Its own patience with an address where no cluster is: two minutes.
RAY_PATIENCE = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}


@contextmanager
def on_cluster(address: str) -> Iterator[None]:
    """A command on the cluster at `address`: SIGTERM is as Ctrl-C. Raises InputError as `joined` does."""
    with joined(address):
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # after ray.init, which sets its own
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def joined(address: str) -> Iterator[None]:
    """This process, from any thread, as a driver of the cluster. Raises InputError when it cannot be one.

    Where it is a driver already, as in a notebook that has called `ray.init`, it stays one when the block ends.
    """
    here = sys.modules.get("ray")  # not imported yet: it reads RAY_PATIENCE when it is
    if here is not None and here.is_initialized():
        _check_same(address, here.get_runtime_context().gcs_address)
        yield
        return
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
    try:
        yield
    finally:
        ray.shutdown()


def cluster_nodes() -> list[dict[str, Any]]:
    import ray

    return list(ray.nodes())


def start_service(settings: ServiceSettings, *, is_private: bool = False) -> Service:
    """Raises MloraError when it cannot open its database or storage; then it is not left behind."""
    from mlora_ray.actors.options import start_placement

    service = Service(start_placement(settings), settings.name, is_private=is_private)
    try:
        service.settings(START_TIMEOUT_S)
    except MloraError:
        service.kill()
        raise
    return service


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


def _check_same(address: str, joined_address: str) -> None:
    if address not in ("auto", joined_address):
        allowed = f"auto: this process has joined {joined_address} already; ray.shutdown() leaves it"
        raise command_line_mistake("--address", address, allowed)


def _check_listens(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> InputError:
    """What Ray, or the socket, said, as what to do about it."""
    said = first_line(error).split(". ")[0]
    if address.startswith(("http://", "https://")):
        said = "this is the dashboard's; jobs are submitted to it with `ray job submit`"
    elif "token" in said:
        said = f"{said} (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
    elif said.startswith("Failed to connect to Ray cluster"):
        said = "what listens there is not Ray's GCS, or wants another token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)"
    return command_line_mistake(
        "--address", address, f"the address of a running Ray cluster, such as 10.0.0.1:6379 or auto: {said}"
    )
