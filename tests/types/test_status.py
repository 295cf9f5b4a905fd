"""What `status` says of some jobs of a service, beside others."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from mlora_ray.clock import VirtualClock
from mlora_ray.control.jobs.views import run_status
from mlora_ray.types import HostReport, JobState
from tests.fakes.service import Service, specs

RATES = tuple(HostReport(host=name, base="b", tokens_per_s=rate) for name, rate in (("h-0", 10.0), ("h-1", 20.0)))


def test_rate_and_time_left_are_of_the_hosts_of_these_jobs(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock)
    service.submit(specs(3))
    service.tick(4)
    jobs = {j.name: j for j in service.placement.jobs}
    for name, state, host in (
        ("job-0", JobState.TRAINING, "h-1"),
        ("job-1", JobState.PAUSED, ""),
        ("job-2", JobState.SUCCEEDED, "h-0"),
    ):
        jobs[name].record = dataclasses.replace(jobs[name].record, state=state, host=host)
    one, paused, ended = (run_status([jobs[f"job-{i}"]], RATES, 0.0, "training", "") for i in range(3))
    assert one.tokens_per_s == 20.0
    assert not math.isnan(one.eta_s or math.nan)
    assert (paused.tokens_per_s, paused.eta_s) == (0.0, None)
    assert ended.tokens_per_s == 0.0


def test_a_cancelled_job_is_no_part_of_what_is_to_be_done(tmp_path: Path, clock: VirtualClock) -> None:
    service = Service(tmp_path, clock)
    service.submit(specs(2))
    service.tick(4)
    service.control.cancel(["job-1"])
    service.run()
    status = service.control.status()
    assert {str(j.state) for j in status.jobs} == {"SUCCEEDED", "CANCELLED"}
    assert status.share_done == 1.0
