"""In time, for as little as possible: jobs share hosts, spot while slack allows, on demand when it does not.

The slack of a job is R(t) - C(t), the time left less the work left. Who has slack runs on spot, spread over the zones,
and waits where there is none. Who has less than `reserve_s` above what a change of machine takes goes on demand when
there is no spot, and back once a spot machine *runs*: it does not stand still in between. Who has less slack than the
loss of a spot machine costs is on demand to the end. Jobs share a host as long as each of them will be in time on it.

Who may be on spot, share or wait has the slack of one decision and one changeover at least; with less, a host of its
own is asked for at once. So every deadline is kept that can be kept by going on demand at the first decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.placement.assignment import DraftAssignment
from mlora_ray.policies.scaling.demand import open_jobs
from mlora_ray.policies.spot.deadline_slack import Slack, SpotSettings, slack_of
from mlora_ray.policies.spot.host_sharing import CLOSE, SharedHost, need_of
from mlora_ray.policies.spot.zone_probing import ProbeState, ZoneProbes
from mlora_ray.types import (
    Action,
    AdapterView,
    AutoscaleSettings,
    ClusterView,
    DrainHost,
    HostType,
    HostView,
    LaunchHost,
    PolicyState,
)


class OnTime:
    """Placement (`decide`) and scaling (`scale`): two pure functions that make the same plan of the view."""

    name = "on-time"

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
        """Jobs onto the hosts that run: who must, then who may; then whoever hurts nobody there."""
        board = DraftAssignment(view)
        plan = self._plan(view, list(board.adapters.values()), list(board.hosts.values()), [])
        waiting = [job for job in plan.jobs if not plan.put(job) and not plan.put_anyhow(job)]
        for job in waiting:
            plan.squeeze_in(job)
        for job in plan.jobs:
            crew = plan.crew_of.get(job.name)
            hosts = (crew.host.id,) if crew else ()
            if hosts != board.where.get(job.name, ()):
                board.put(job.adapter, hosts)
        return board.actions(), state

    def scale(self, view: ClusterView, state: ProbeState) -> tuple[list[LaunchHost | DrainHost], ProbeState]:
        """Hosts for those who find none; empty ones that nobody is planned on are drained."""
        probes = ZoneProbes(view, state, self._limits, self._settings.start_patience_s)
        hosts = [h for h in view.hosts if h.state == "alive"]
        running = {h.id for h in view.hosts}
        starting = [h for h in view.pending_hosts if h.state == "alive" and h.id not in probes.stuck | running]
        plan = self._plan(view, open_jobs(view), hosts, starting)
        for job in plan.jobs:
            self._serve(job, plan, probes)
        idle = [c.host.id for c in plan.crews if not c.members and not c.host.group]
        drained = [DrainHost(host=name) for name in (*idle, *sorted(probes.stuck))]
        return [*drained, *probes.launched], probes.next()

    def _plan(
        self,
        view: ClusterView,
        adapters: Sequence[AdapterView],
        hosts: Sequence[HostView],
        starting: Sequence[HostView],
    ) -> _Plan:
        step_times = self._step_times.seen(view.step_times)
        return _Plan(adapters, hosts, starting, view.now_s, step_times, self._settings)

    def _serve(self, job: Slack, plan: _Plan, probes: ZoneProbes) -> None:
        """A crew for it: one there is, a new spot host, a new one on demand where it must; else it waits and probes."""
        may_spot = plan.may_spot(job)
        if may_spot and plan.put(job, on_sure=False):
            return
        if may_spot and (kind := probes.launch_spot(job.adapter)):
            plan.add_new(job, kind)
            return
        has_place = plan.put(job, on_spot=False)
        is_due = (plan.is_needy(job) or not may_spot) and not plan.is_lost(job)
        if not has_place and is_due and (kind := probes.launch_sure(job.adapter)):
            plan.add_new(job, kind)
        if may_spot:
            probes.launch_spot(job.adapter, is_probing=True)


class _Plan:
    """Jobs laid into crews, in turns."""

    def __init__(
        self,
        adapters: Sequence[AdapterView],
        hosts: Sequence[HostView],
        starting: Sequence[HostView],
        now_s: float,
        step_times: StepTimes,
        settings: SpotSettings,
    ) -> None:
        self._step_times, self._settings = step_times, settings
        self.crews: list[SharedHost] = []
        self.crew_of: dict[str, SharedHost] = {}
        for host in hosts:
            self._add(host, is_alive=True)
        for host in starting:
            self._add(host, is_alive=False)
        is_spot = {h.id: h.is_spot for h in hosts}
        jobs = [slack_of(a, now_s, step_times, settings, is_forgiving=True) for a in adapters]
        self.jobs = sorted(jobs, key=lambda job: (self._turn(job, is_spot), job.slack_s, job.name))
        self._need = {job.name: need_of(job, settings) for job in self.jobs}
        self._bound: dict[str, set[str]] = {}  # host -> those on it who may not lose it
        for job in self.jobs:
            if (name := job.adapter.host) and name in is_spot and not self.may_spot(job):
                self._bound.setdefault(name, set()).add(job.name)

    def _turn(self, job: Slack, is_spot: Mapping[str, bool]) -> int:
        """Who may not lose its machine; who waits for one that was asked for; who will change to one; then the rest.

        Nobody takes a machine from who had the time to wait for it.
        """
        if not job.is_firm:
            return 5
        if self.may_spot(job):
            return 4
        if (host := job.adapter.host) and host in is_spot:
            return 2 if is_spot[host] else 0
        return 1 if job.first_slack_s >= self._settings.fallback_s else 3

    def _add(self, host: HostView, is_alive: bool) -> None:
        self.crews.append(SharedHost(host, self._step_times.of(host.base, host.device_type), is_alive))

    def add_new(self, job: Slack, kind: HostType) -> None:
        """A crew on a host that is asked for now."""
        base, numerics = job.adapter.base, job.adapter.numerics
        host = HostView(id="", base=base, device_type=kind.device, is_spot=kind.is_spot, numerics=numerics)
        self._add(host, is_alive=False)
        self._join(job, self.crews[-1])

    # What a job may and must.

    def may_spot(self, job: Slack) -> bool:
        """Whether it could lose its machine now and still be in time."""
        return not job.is_firm or job.slack_s >= self._settings.fallback_s + self._settings.margin_s

    def is_needy(self, job: Slack) -> bool:
        """Whether it goes on demand where there is no spot. Slack never grows: once needy, always."""
        return job.slack_s < self._settings.fallback_s + self._settings.margin_s + self._settings.reserve_s

    def is_lost(self, job: Slack) -> bool:
        """Whether a machine asked for now comes too late."""
        return job.adapter.host is None and job.is_firm and job.slack_s < self._settings.changeover_s

    # Where it goes. Each answers whether there was a place.

    def put(self, job: Slack, on_spot: bool = True, on_sure: bool = True) -> bool:
        """On spot, else on demand, where everybody gets what they need: where it is, else where it adds most."""
        kinds = [True] * (on_spot and self.may_spot(job)) + [False] * on_sure
        for is_spot in kinds:
            found = [c for c in self.crews if c.host.is_spot == is_spot and self._suits(job, c)]
            if found:
                self._join(job, max(found, key=lambda c: (c.has(job), c.is_alive, c.gain(job), -len(c.host.group))))
                return True
        return False

    def put_anyhow(self, job: Slack) -> bool:
        """For who may not be on spot and finds nothing on demand: spot is better than waiting."""
        if self.may_spot(job):
            return False
        found = [c for c in self.crews if c.host.is_spot and self._suits(job, c)]
        if found:
            self._join(job, max(found, key=lambda c: (c.has(job), c.gain(job), -len(c.host.group))))
        return bool(found)

    def squeeze_in(self, job: Slack) -> bool:
        """Beside those who still get what they need, where it is fastest itself."""
        found = [c for c in self.crews if c.members and self._may_join(job, c)]
        found = [c for c in found if c.host.is_spot or self._may_ride(job, c)]
        if found:
            self._join(job, max(found, key=lambda c: (c.has(job), c.speed(job))))
        return bool(found)

    def _suits(self, job: Slack, crew: SharedHost) -> bool:
        if not self._may_join(job, crew) or crew.speed(job) < self._need[job.name] - CLOSE:
            return False
        return crew.host.is_spot or self._may_ride(job, crew)

    def _may_join(self, job: Slack, crew: SharedHost) -> bool:
        """It fits, slows nobody too much, and takes nobody's machine who may not lose it."""
        owners = self._bound.get(crew.host.id, ())
        is_free = all(name == job.name or name in self.crew_of for name in owners)
        return is_free and crew.fits(job) and crew.keeps_pace(job)

    def _may_ride(self, job: Slack, crew: SharedHost) -> bool:
        """On demand: who is needy; others beside one who is, if what they add is worth the price of spot."""
        if self.is_needy(job):
            return True
        has_needy = any(self.is_needy(one) for one, _ in crew.members)
        return has_needy and crew.gain(job) >= self._settings.spot_to_sure

    def _join(self, job: Slack, crew: SharedHost) -> None:
        crew.add(job, self._need[job.name])
        self.crew_of[job.name] = crew
