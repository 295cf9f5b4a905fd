"""A host that was told to stop ends by itself: Ray does not always manage to kill it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import ray

from mlora_ray.actors.options import start_host
from mlora_ray.bases.resolve import resolve_base
from mlora_ray.types import HostSettings


@pytest.mark.usefixtures("local_ray")
def test_a_stopped_host_ends_without_being_killed(tmp_path: Path) -> None:
    base = resolve_base("tiny-llama", "float32")
    settings = HostSettings(
        id="cpu-0",
        base=base,
        bundle_root=str(tmp_path / "bundles"),
        page_dir=str(tmp_path / "pages"),
        service="ends",
        actor_name="host:ends/cpu-0/1",
    )
    host = start_host(settings)
    pid = ray.get(host.describe.remote(120.0), timeout=150).pid
    ray.get(host.stop.remote(10.0), timeout=60)
    deadline_s = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s, "it lives on"
        time.sleep(0.1)
