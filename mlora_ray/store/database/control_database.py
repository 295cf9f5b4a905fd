"""The control database: the truth about jobs, their owners and their committed steps.

SQLite (WAL) on one machine, PostgreSQL where the placement actor may move. Every write that belongs to an
owner names the owner's epoch; when another has taken over it matches no row and nothing changes. A service that
holds the lease writes nothing once another has taken it over. This is the one door; the rooms behind it are `jobs`,
`commits`, `hosts`, `machines` and `lease`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy import select, update

from mlora_ray.errors import DatabaseInUse, LeaseLost
from mlora_ray.store.database import commits, hosts, integrity, jobs, lease, machine_numerics, schema
from mlora_ray.store.database.connections import open_engine
from mlora_ray.store.database.mapping import event, event_row, host_record, job_record, step_report
from mlora_ray.store.database.tables import BundleRow, EventRow, HostRow, JobRow, RunRow, StepRow
from mlora_ray.store.database.transactions import Transactions
from mlora_ray.types import BundleReport, FailureReport, HostInfo, HostSettings, JobSpec, JobState, StepReport
from mlora_ray.types.database_url import shown
from mlora_ray.types.records import Commit, Event, HostRecord, JobRecord, Machine, Reassignment


class ControlDatabase:
    """Opens, and where needed creates or upgrades, the database at a SQLAlchemy URL. All raises DatabaseError."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)
        schema.bring_up_to_date(self._engine, url)
        self._transactions = Transactions(self._engine, url)
        self._reading, self._writing = self._transactions.reading, self._transactions.writing

    def close(self) -> None:
        self._engine.dispose()

    def check_integrity(self) -> None:
        """Raises AssertionError, a line for each thing that is not as it must be: see `integrity`."""
        with self._reading() as session:
            found = integrity.violations(session)
        assert not found, "\n".join(found)

    # -- writes that raised

    @property
    def is_in_doubt(self) -> bool:
        """A write has raised and may have been done all the same: read anew what is mirrored, then `settle_doubt`."""
        return self._transactions.is_in_doubt

    def settle_doubt(self) -> None:
        self._transactions.is_in_doubt = False

    # -- lease: one service at a time writes

    def take_lease(self, holder: str, patience_s: float = 8.0, sleep: Callable[[float], None] = time.sleep) -> int:
        """Become the one that writes; answers the lease's generation. From now on every write checks it.

        Free, or the holder's own of before: at once. Another's: when its beat stands still for `patience_s`; one that
        moves is at work, and raises DatabaseInUse with its name.
        """
        generation, seen = self._claim(holder, None)
        if generation is None and self._stands_still(seen, patience_s, sleep):
            generation, seen = self._claim(holder, seen)
        if generation is None:
            at_work = f"{seen.holder!r} is at work on it: end it, or give this service a database of its own"
            raise DatabaseInUse(f"control database {shown(self.url)}: {at_work}")
        self._transactions.generation = generation
        return generation

    def _claim(self, holder: str, stood_still: lease.Lease | None) -> tuple[int | None, lease.Lease]:
        with self._writing(is_checked=False) as session:
            return lease.claim(session, holder, stood_still), lease.read(session)

    def _stands_still(self, seen: lease.Lease, patience_s: float, sleep: Callable[[float], None]) -> bool:
        for _ in range(lease.NUM_LOOKS):
            sleep(patience_s / lease.NUM_LOOKS)
            with self._reading() as session:
                if lease.read(session) != seen:
                    return False
        return True

    def beat(self) -> None:
        """Show that this service is at work, at least twice within the patience of others. Raises LeaseLost."""
        if self._transactions.generation is None:
            raise LeaseLost(f"control database {shown(self.url)}: no lease was taken")
        with self._writing() as session:
            lease.beat(session)

    def release_lease(self) -> None:
        """Let the next service begin without waiting; this one writes nothing more. Nothing to do where it is lost."""
        if (generation := self._transactions.generation) is not None:
            with self._writing(is_checked=False) as session:
                lease.release(session, generation)

    # -- runs and machines

    def add_run(self, *, command: str, base: str, machine: Machine, started_at_s: float) -> int:
        """Record a call of `train`; answers its number, from 1."""
        device, threads = machine.device, machine.threads
        with self._writing() as session:
            row = RunRow(command=command, base=base, device=device, threads=threads, started_at_s=started_at_s)
            session.add(row)
            session.flush()
            return row.id

    def machine(self) -> Machine | None:
        """What the first host that joined trains on; before, what the first run was given; None before that."""
        with self._reading() as session:
            return machine_numerics.first_machine(session)

    def bind_base(self, base: str, sha256: str, host: str, node: str) -> None:
        """The first host of a base sets its hash; another hash raises BaseDiffers."""
        with self._writing() as session:
            machine_numerics.bind_base(session, base, sha256, host, node)

    def bind_numerics(self, numerics: str, facts: Mapping[str, str], device: str, threads: int) -> None:
        """Note what is behind a hash of numerics; the second time nothing changes."""
        with self._writing() as session:
            machine_numerics.bind_numerics(session, numerics, facts, device, threads)

    # -- hosts

    def add_host(self, settings: HostSettings, actor_name: str, at_s: float) -> None:
        """A host is being launched. Raises DatabaseError when its id was ever used."""
        with self._writing() as session:
            hosts.add(session, settings, actor_name, at_s)

    def next_host_number(self) -> int:
        """How many hosts there have ever been."""
        with self._reading() as session:
            return hosts.next_number(session)

    def host_joined(self, info: HostInfo, at_s: float) -> None:
        """A host has loaded its base: alive, unless it drains already; one that is gone stays gone."""
        with self._writing() as session:
            hosts.joined(session, info, at_s)

    def set_host_state(self, host: str, state: str, at_s: float, why: str = "") -> None:
        """`draining` or `gone`; what is gone stays gone."""
        with self._writing() as session:
            hosts.set_state(session, host, state, at_s, why)

    def hosts(self, *, is_gone_included: bool = False) -> list[HostRecord]:
        """In the order of their launch."""
        query = select(HostRow).order_by(HostRow.number)
        with self._reading() as session:
            rows = session.scalars(query if is_gone_included else query.where(HostRow.state != "gone")).all()
            return [host_record(row) for row in rows]

    # -- jobs

    def add_jobs(self, specs: Sequence[JobSpec], submitted_at_s: float) -> None:
        """Queue jobs. Raises DatabaseError when a name is taken."""
        with self._writing() as session:
            jobs.add(session, specs, submitted_at_s)

    def jobs(self) -> list[JobRecord]:
        """All jobs in the order they were submitted."""
        with self._reading() as session:
            return [job_record(row) for row in session.scalars(select(JobRow).order_by(JobRow.place_in_file))]

    def refresh_specs(self, specs: Sequence[JobSpec]) -> None:
        """Take over where the files of the same specs lie now (a moved directory)."""
        with self._writing() as session:
            jobs.refresh_specs(session, specs)

    def change_hands(self, changes: Iterable[Reassignment], at_s: float, kind: str) -> list[str]:
        """Bump the epoch of each job that still has the one named; answers the names that were changed."""
        with self._writing() as session:
            return jobs.change_hands(session, changes, at_s, kind)

    def start_jobs(self, names: Sequence[tuple[str, int]], numerics: str) -> None:
        """Jobs (name, epoch) that were placed or moved train now; the first numerics a job trains on are its own."""
        with self._writing() as session:
            jobs.start(session, names, numerics)

    def queue(self, names: Sequence[str], at_s: float) -> list[str]:
        """A user's word: what is PAUSED or FAILED goes on from its last bundle. Answers the names that changed."""
        with self._writing() as session:
            return jobs.command(session, names, JobState.QUEUED, at_s)

    def pause(self, names: Sequence[str], at_s: float) -> list[str]:
        """A user's word: stop now, at the last committed bundle; owners are fenced off. Answers what changed."""
        with self._writing() as session:
            return jobs.command(session, names, JobState.PAUSED, at_s)

    def cancel(self, names: Sequence[str], at_s: float) -> list[str]:
        """A user's word: end what has not ended, for good; owners are fenced off. Answers what changed."""
        with self._writing() as session:
            return jobs.command(session, names, JobState.CANCELLED, at_s)

    # -- committed steps and bundles

    def commit_bundle(self, report: BundleReport, at_s: float, host: str = "") -> Commit:
        """Make a bundle and its steps the job's newest, if `report.epoch` still owns the job.

        Steps that are there already are left out: a state that has moved brings them again. Nothing changes unless
        the answer is COMMITTED.
        """
        return self.commit_bundles([(report, host)], at_s)[0]

    def commit_bundles(self, reports: Sequence[tuple[BundleReport, str]], at_s: float) -> list[Commit]:
        """`commit_bundle` of each (report, host), in one transaction."""
        with self._writing() as session:
            return commits.commit_bundles(session, reports, at_s)

    def commit_failure(self, report: FailureReport, at_s: float, host: str = "") -> bool:
        """Mark a job FAILED, if `report.epoch` still owns it."""
        with self._writing() as session:
            return commits.commit_failure(session, report, at_s, host)

    def steps(self, job: str) -> list[tuple[StepReport, int]]:
        """Committed steps of a job with the epoch each was made under, in order."""
        with self._reading() as session:
            rows = session.scalars(select(StepRow).where(StepRow.job == job).order_by(StepRow.step)).all()
            return [(step_report(row), row.epoch) for row in rows]

    def kept_bundles(self, job: str) -> list[tuple[int, str]]:
        """(step, uri) of the committed bundles whose files are kept, oldest first."""
        with self._reading() as session:
            return commits.kept_bundles(session, job).get(job, [])

    def kept_bundles_of_all(self) -> dict[str, list[tuple[int, str]]]:
        """`kept_bundles` of every job that has any, in one query."""
        with self._reading() as session:
            return commits.kept_bundles(session)

    def last_losses(self) -> dict[str, float]:
        """Loss of each job's newest committed step, in one query."""
        with self._reading() as session:
            return commits.last_losses(session)

    def forget_bundles(self, uris: Sequence[str]) -> None:
        """Note that these files are about to be removed."""
        with self._writing() as session:
            session.execute(update(BundleRow).where(BundleRow.uri.in_(uris)).values(is_kept=False))

    def roll_back(self, job: str, step: int, uri: str, at_s: float, why: str) -> None:
        """Go back to an older bundle (step 0 and no uri: to the start): later steps and bundles are dropped."""
        with self._writing() as session:
            commits.roll_back(session, job, step, uri, at_s, why)

    # -- events

    def add_event(self, entry: Event) -> None:
        with self._writing() as session:
            session.add(event_row(entry))

    def events(self, after: int = 0, job: str = "", limit: int = 0) -> list[Event]:
        """The event log, oldest first: ids above `after`, of one job where it is named, the first `limit` if given."""
        query = select(EventRow).where(EventRow.id > after).order_by(EventRow.id)
        query = query.where(EventRow.job == job) if job else query
        with self._reading() as session:
            return [event(row) for row in session.scalars(query.limit(limit) if limit else query)]
