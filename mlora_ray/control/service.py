"""A placement service without Ray: opens its database, ticks, does what users ask. One thread at a time calls it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence, Set

from mlora_ray.clock import Clock
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.control.hosts.fleet import Fleet
from mlora_ray.control.hosts.managed_host import HostTable
from mlora_ray.control.jobs.placement import Placement
from mlora_ray.control.metrics import Metrics
from mlora_ray.control.transport import HostConnection, Transport
from mlora_ray.errors import DatabaseError, InputError, LeaseLost, Mistake, StorageError
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.scaling.demand import why_no_host
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.store.files import write_file
from mlora_ray.types import CrossRequest, JobSpec, JobState, StepReport
from mlora_ray.types.job_identity import spec_differences
from mlora_ray.types.records import Event, Machine
from mlora_ray.types.service import PolicySnapshot, RunResult, SubmitRequest
from mlora_ray.types.status import HostStatus, JobStatus, RunStatus

MAX_FAILED_TICKS = 5
MIN_PATIENCE_S = 3.0  # to see whether another service's beat moves
MAX_SAMPLES = 400  # of the throughput curve; then every second one is dropped

log = logging.getLogger(__name__)


class PlacementService:
    """Raises DatabaseError when the database cannot be had, or is another service's."""

    def __init__(
        self, settings: ServiceSettings, transport: Transport, clock: Clock, holder: str, metrics: Metrics
    ) -> None:
        self.settings, self._transport, self._clock, self._metrics = settings, transport, clock, metrics
        self._db = ControlDatabase(settings.database_url)
        self._db.take_lease(holder, max(MIN_PATIENCE_S, 8 * settings.tick_s))
        write_file(settings.probe_uri, b"every host reads this file before it starts\n")
        policy = load_policy(settings.policy, settings.step_times, settings.tenant_shares)
        hosts = HostTable()
        self.placement = Placement(self._db, hosts, policy, settings, clock, metrics)
        self.fleet = Fleet(transport, self._db, hosts, self.placement, settings, clock, metrics)
        self.fleet.adopt()
        self._started_s = clock.elapsed_s()
        self._samples: list[tuple[float, float]] = []
        self._num_failed = 0

    def tick(self) -> None:
        """Raises DatabaseError, LeaseLost, StorageError."""
        began_s = self._clock.elapsed_s()
        self._db.beat()
        if self._db.is_in_doubt:
            self.placement.read_again()
            self._db.settle_doubt()
        self.fleet.tick()
        self._sample()
        self._observe(self._clock.elapsed_s() - began_s)
        self.placement.commits.mend_files()

    def patient_tick(self) -> None:
        """A tick that storage, or what nobody foresaw, may fail for a while: hosts go on, up to their bound.

        Raises LeaseLost, and the fifth unforeseen error in a row.
        """
        try:
            self.tick()
            self._num_failed = 0
        except LeaseLost:
            raise
        except (DatabaseError, StorageError, OSError) as error:
            operation = "database" if isinstance(error, DatabaseError) else "write"
            self._metrics.count("mlora_storage_failures", operation=operation)
            log.warning("service=%s storage: %s", self.settings.name, error)
        except Exception:
            self._num_failed += 1
            if self._num_failed >= MAX_FAILED_TICKS:
                raise
            log.exception("service=%s a tick failed", self.settings.name)

    def _observe(self, tick_s: float) -> None:
        jobs = self.placement.jobs
        queued = [j for j in jobs.open() if not j.record.host]
        self._metrics.observe(
            self.placement.status(),
            self.fleet.statuses(),
            now_s=self._clock.now_s(),
            tick_s=tick_s,
            decision_s=self.fleet.decision_s,
            queued_tokens=sum(j.tokens_total - j.record.num_tokens for j in queued),
            wanted_hosts=self.fleet.num_wanted,
            draining_nodes=len(self._transport.draining()),
            clock_skew_s=self.fleet.clock_skew_s,
            tenants={j.name: j.record.spec.tenant for j in jobs},
            prices={t.name: t.price_per_hour for t in self.settings.host_types},
        )

    def _sample(self) -> None:
        """A point of the throughput curve, up to the end of training."""
        if self.placement.is_done() and self._samples and self._samples[-1][1] == 0.0:
            return
        rate = sum(h.report.tokens_per_s for h in self.placement.hosts.living())
        rate = 0.0 if self.placement.is_done() else rate
        self._samples.append((self._clock.elapsed_s() - self._started_s, rate))
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[1::2]

    # -- what users ask

    def submit(self, request: SubmitRequest) -> None:
        """Queue new jobs, and again those that had stopped. Raises InputError: all mistakes at once."""
        mistakes = [self._why_no_host(s, request.job_file) for s in request.specs]
        here = [job.record.spec for s in request.specs if (job := self.placement.jobs.get(s.name))]
        known = {s.name for s in here}
        given = [s for s in request.specs if s.name in known]
        where = f"service {self.settings.name!r} has a job of this name, which"
        differing = spec_differences(here, given, request.job_file, where)
        if found := [*(m for m in mistakes if m), *differing]:
            raise InputError(found)
        self._note_unprofiled({s.base.id for s in request.specs})
        host_type = self.settings.host_types[0]
        machine = Machine(host_type.device, host_type.threads)
        base = request.specs[0].base.id if request.specs else ""
        self._db.add_run(command=request.command, base=base, machine=machine, started_at_s=self._clock.now_s())
        self.placement.commands.submit(request.specs, dict(request.state_bytes))

    def _note_unprofiled(self, bases: Set[str]) -> None:
        """Profiles of other bases say nothing of these: the policy goes by what hosts show."""
        profiled = {p.base for p in self.settings.base_profiles}
        for base in sorted(bases - profiled) if profiled else ():
            detail = f"no profile is of base {base}, they are of {', '.join(sorted(profiled))}"
            self._db.add_event(Event(at_s=self._clock.now_s(), kind="unprofiled", detail=detail))

    def _why_no_host(self, spec: JobSpec, file: str) -> Mistake | None:
        why = why_no_host(spec.device_type, spec.base.id, self.settings.host_types, self.settings.autoscale)
        if not why:
            return None
        allowed = f"a device that a host type of this service has, within its budget: {why}"
        return Mistake(file=file, job=spec.name, field="device_type", value=spec.device_type, allowed=allowed)

    def pause(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.placement.commands.pause(self._known(names)))

    def resume(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.placement.commands.queue(self._known(names)))

    def cancel(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.placement.commands.cancel(self._known(names)))

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        """Raises InputError for names of no job."""
        unknown = [n for n in names if self.placement.jobs.get(n) is None]
        if unknown:
            names_here = [j.name for j in self.placement.jobs]
            some = ", ".join(names_here[:5]) + (" …" if len(names_here) > 5 else "")
            allowed = f"one of this service: {some or 'there are none'}"
            raise InputError([_mistake("job", n, allowed) for n in unknown])
        return names

    def drain(self, target: str) -> tuple[str, ...]:
        """Empty a host, or every host of a node. Raises InputError when there is neither."""
        infos = self.fleet.infos
        hosts = [n for n, i in infos.items() if n == target or (len(target) >= 4 and i.node_id.startswith(target))]
        if not hosts:
            there = ", ".join(f"{n} (node {i.node_id[:8]})" for n, i in infos.items()) or "none"
            raise InputError([_mistake("host or node", target, f"one that is alive: {there}")])
        for host in hosts:
            self.fleet.drain(host, "asked by a user")
        return tuple(hosts)

    def evaluator(self, requests: Sequence[CrossRequest]) -> HostConnection:
        """A host that can evaluate these. Raises MloraError when none is alive."""
        return self.fleet.connection_to(requests[0].spec.base.id)

    # -- what users see

    def status(self, names: Sequence[str] = (), error: str = "") -> RunStatus:
        """Of these jobs, or all. Raises InputError for names of no job."""
        self._known(names)
        error = error or self.fleet.error
        is_done = bool(error) or self.placement.is_done(names)
        phase = "done" if is_done else "training" if self.placement.hosts.living() else "starting"
        status = self.placement.status(names, phase, error)
        jobs = tuple(self._explained(job) for job in status.jobs)
        return dataclasses.replace(status, jobs=jobs, warnings=(*status.warnings, *self.fleet.warnings))

    def _explained(self, status: JobStatus) -> JobStatus:
        if status.state is not JobState.QUEUED:
            return status
        return dataclasses.replace(status, note=self.fleet.why_waits(self.placement.jobs[status.name]))

    def result(self, names: Sequence[str] = ()) -> RunResult:
        return RunResult(
            records=tuple(self.placement.records(names)),
            samples=tuple(self._samples),
            usage=self.fleet.usage(),
            hosts=tuple(self.fleet.infos.values()),
        )

    def situation(self) -> PolicySnapshot:
        """What the policy sees now."""
        view, state = self.fleet.view(), self.placement.policy_state
        return PolicySnapshot(view=view, policy=self.settings.policy, policy_state=state)

    def hosts(self, is_gone_included: bool = False) -> tuple[HostStatus, ...]:
        return tuple(self.fleet.statuses(is_gone_included))

    def events(self, after: int = 0, job: str = "", limit: int = 0) -> tuple[Event, ...]:
        return tuple(self._db.events(after, job, limit))

    def steps(self, job: str, after: int = 0) -> tuple[StepReport, ...]:
        """Committed steps beyond step `after`."""
        self._known([job])
        return tuple(s for s, _ in self._db.steps(job) if s.step > after)

    def is_at_rest(self, names: Sequence[str]) -> bool:
        return self.placement.is_at_rest(names)

    def close(self) -> None:
        """End the hosts and give the database up to the next service. Nothing is saved."""
        self.fleet.stop()
        self._db.release_lease()
        self._db.close()


def _mistake(field: str, value: str, allowed: str) -> Mistake:
    return Mistake(file="command line", field=field, value=value, allowed=allowed)
