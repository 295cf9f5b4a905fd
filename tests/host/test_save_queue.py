"""When adapters are saved, on storage that is slow, fails and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlora_ray.clock import VirtualClock
from mlora_ray.engine.base import Base
from mlora_ray.host.runtime import HostRuntime
from mlora_ray.types import (
    Release,
)
from tests.conftest import real_spec
from tests.host.one_host import Host


def test_nobody_runs_ahead_of_what_is_committed_by_more_than_the_bound(
    tmp_path: Path, base: Base, clock: VirtualClock
) -> None:
    host = Host(tmp_path, base, clock, max_uncommitted_steps=7)
    host.assign(real_spec(tmp_path, "a", max_steps=50, save_steps=3))
    for _ in range(100):
        host.hosting.advance()
    assert not host.hosting.advance()
    assert [s.step for b in host.hosting.report().bundles for s in b.steps] == [1, 2, 3, 4, 5, 6, 7]
    host.advance()
    assert host.final("a").step == 50


def test_storage_that_is_away_for_long_pauses_and_fails_nobody(tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    host = Host(tmp_path, base, clock, save_attempts=0, max_uncommitted_steps=20)
    blocked = tmp_path / "bundles"
    blocked.write_text("in the way")
    host.assign(real_spec(tmp_path, "a", max_steps=50, save_steps=3))
    for _ in range(200):
        host.hosting.advance()
        clock.advance(1.0)
    assert (host.take().progress[0].step, host.failures) == (20, [])
    blocked.unlink()
    host.advance()
    assert [s.step for b in host.bundles for s in b.steps] == list(range(1, 51))


def test_release_saves_and_lets_go(host: Host) -> None:
    host.assign(real_spec(host.folder, "a", max_steps=50, save_steps=0))
    host.advance(lambda: any(p.step >= 3 for p in host.hosting.report().progress))
    host.hosting.release((Release("a", 7),))
    host.hosting.advance()
    assert host.hosting.report().progress
    host.hosting.release((Release("a", 1),))
    host.advance()
    assert len(host.bundles) == 1
    assert len(host.bundles[0].steps) == host.bundles[0].step >= 3
    assert host.hosting.report().progress == ()


def test_storage_that_fails_for_one_job_stops_it_alone(host: Host) -> None:
    (host.folder / "bundles").mkdir()
    (host.folder / "bundles" / "bad").write_text("a file where the folder should be")
    host.assign(real_spec(host.folder, "bad"))
    host.assign(real_spec(host.folder, "good"))
    host.advance()
    assert host.final("good").step == 6
    assert [f.job for f in host.failures] == ["bad"]
    assert host.failures[0].is_unsaved
    assert host.failures[0].reason.startswith("storage, 5 attempts: ")
    assert "it has no bundle" in host.failures[0].error
    assert "bad" in host.hosting.report().warning


def test_slow_storage_holds_up_no_step(tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    """While one save is waited for, training goes on; what has moved or failed meanwhile is saved once more."""
    may_write, quiet = threading.Event(), Host(tmp_path / "quiet", base, clock)
    specs = [real_spec(tmp_path, name, max_steps=30, save_steps=4) for name in ("a", "b")]
    for spec in specs:
        quiet.assign(spec)
    quiet.advance()
    host = Host(tmp_path, base, clock)

    class Slow(ThreadPoolExecutor):
        def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(lambda: (may_write.wait(60), function(*args, **kwargs))[1])

    host.hosting = HostRuntime(host.settings, host.engine, clock, Slow(2))
    for spec in specs:
        host.assign(spec)
    for _ in range(40):
        host.hosting.advance()
        clock.advance(1.0)
    assert {p.step for p in host.hosting.report().progress} == {30}
    assert host.hosting.report().bundles == ()
    may_write.set()
    ends_s = time.monotonic() + 60
    while sum(b.is_final for b in host.bundles) < 2 and time.monotonic() < ends_s:
        host.hosting.advance()
        host.take()
        host.hosting.wait(0.1)
    for name in ("a", "b"):
        assert host.final(name).weights_sha256 == quiet.final(name).weights_sha256
        assert [s.step for b in host.bundles if b.job == name for s in b.steps] == list(range(1, 31))


def test_storage_that_comes_back_costs_nothing(host: Host) -> None:
    blocked = host.folder / "bundles" / "a"
    blocked.parent.mkdir()
    blocked.write_text("in the way")
    host.assign(real_spec(host.folder, "a"))
    host.advance(lambda: "next attempt" in host.hosting.report().warning)
    blocked.unlink()
    host.advance()
    assert [s.step for b in host.bundles for s in b.steps] == [1, 2, 3, 4, 5, 6]
    assert host.failures == []
