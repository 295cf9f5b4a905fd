"""Uniform Progress (Wu et al., "Can't Be Late", NSDI'24): each job on a machine of its own, spot or on demand.

d is the changeover delay, expected progress t * C(0) / R(0):

1. idle and behind the expected progress: on demand, unless there is spot;
2. spot whenever there is any, until it is taken;
3. on demand until ahead of the expected progress by 2d;
4. idle with R(t) < C(t) + 2d + one probe gap: on demand to the end.

Placement (`decide`) and scaling (`scale`) are two pure functions of the view; the scaling remembers which zones gave no
spot machine. Slack never grows, so rule 4's "to the end" needs no memory, nor does rule 3's "until".
"""

from __future__ import annotations

from collections.abc import Sequence

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment
from mlora_ray.policies.scaling.demand import open_jobs
from mlora_ray.policies.spot.deadline_slack import Slack, SpotSettings, slack_of
from mlora_ray.policies.spot.zone_probing import ProbeState, ZoneProbes
from mlora_ray.types import (
    Action,
    AutoscaleSettings,
    ClusterView,
    DrainHost,
    HostView,
    LaunchHost,
    PolicyState,
)


class UniformProgress:
    """The four rules. A job without a deadline is due after `patience` times its time alone."""

    name = "uniform-progress"

    def __init__(
        self,
        step_times: StepTimes | None = None,
        settings: SpotSettings | None = None,
        limits: AutoscaleSettings | None = None,
    ) -> None:
        self._step_times, self._settings = step_times or StepTimes(), settings or SpotSettings()
        self._limits = limits or AutoscaleSettings(max_hosts=1_000_000)
        self.wake_s = self._settings.probe_gap_s

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]:
        """Jobs onto the hosts there are, one each; who is ahead by 2d leaves its on-demand host."""
        board = DraftAssignment(view)
        idle = []
        for job in self._jobs(view, set(board.adapters)):
            held = board.where.get(job.name)
            if held and not board.hosts[held[0]].is_spot and not self._stays_sure(job, view.now_s):
                board.put(job.adapter, ())
            if job.name not in board.where:
                idle.append(job)
        for job in idle:
            empty = [board.hosts[h] for h in board.empty_hosts(job.adapter)]
            sure = [h.id for h in empty if not h.is_spot]
            spot = [h.id for h in empty if h.is_spot]
            unlocked = spot or (sure if job.is_behind(view.now_s) else [])
            found = sure if self._is_locked(job) else unlocked
            if found:
                board.put(job.adapter, found[:1])
        return board.actions(), state

    def scale(self, view: ClusterView, state: ProbeState) -> tuple[list[LaunchHost | DrainHost], ProbeState]:
        """A host for each job that wants one; hosts that nobody wants are drained once they are empty."""
        probes = ZoneProbes(view, state, self._limits, self._settings.start_patience_s)
        hosts = [h for h in (*view.hosts, *view.pending_hosts) if h.state == "alive" and h.id not in probes.stuck]
        free = {h.id: h for h in hosts if not h.group}
        on = {name: h for h in hosts for name in h.group}
        for job in self._jobs(view, {a.id for a in open_jobs(view)}):
            held = on.get(job.name)
            if held and (held.is_spot or self._stays_sure(job, view.now_s)):
                continue
            self._serve(job, view.now_s, free, probes)
        drained = [DrainHost(host=name) for name in (*free, *sorted(probes.stuck))]
        return [*drained, *probes.launched], probes.next()

    def _serve(self, job: Slack, now_s: float, free: dict[str, HostView], probes: ZoneProbes) -> None:
        """Takes a host out of `free` for it, or asks for one."""
        fitting = [h for h in free.values() if h.base == job.adapter.base]
        spot, sure = [h.id for h in fitting if h.is_spot], [h.id for h in fitting if not h.is_spot]
        if self._is_locked(job):
            if sure:
                del free[sure[0]]
            else:
                probes.launch_sure(job.adapter)
        elif spot:
            del free[spot[0]]
        elif job.is_behind(now_s) and sure:
            del free[sure[0]]
        elif not probes.launch_spot(job.adapter):
            if job.is_behind(now_s):
                probes.launch_sure(job.adapter)
            else:
                probes.launch_spot(job.adapter, is_probing=True)

    def _jobs(self, view: ClusterView, names: set[str]) -> Sequence[Slack]:
        """The open jobs of `names`, the least slack first."""
        step_times = self._step_times.seen(view.step_times)
        found = [slack_of(a, view.now_s, step_times, self._settings) for a in view.adapters if a.id in names]
        return sorted(found, key=lambda job: (job.slack_s, job.name))

    def _is_locked(self, job: Slack) -> bool:
        """Rule 4."""
        return job.slack_s < 2 * self._settings.changeover_s + self._settings.probe_gap_s

    def _stays_sure(self, job: Slack, now_s: float) -> bool:
        """Rules 3 and 4, for a job that runs on demand."""
        return self._is_locked(job) or job.is_behind(now_s + 2 * self._settings.changeover_s)
