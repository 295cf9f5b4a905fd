"""What goes wrong in a chaos run, and when: a pure function of the seed.

A plan has a few moments, each at a share of the run's steps; the faults of a moment happen at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = (
    "kill_host",  # SIGKILL to a host's process
    "kill_node",  # SIGKILL to a raylet; a new node comes later
    "kill_placement",  # SIGKILL to the placement actor's process
    "kill_driver",  # SIGKILL to the driver; another one submits the same jobs later
    "kill_gcs",  # SIGKILL to the GCS; it is started again over the same Redis
    "drain_node",  # a spot notice; the node is killed when it runs out
    "hang_host",  # SIGSTOP to a host past its fence, then SIGCONT
    "cut_node",  # SIGSTOP to a raylet until Ray calls it dead: its host trains on, fenced off, then returns
    "storage_away",  # bundles can be neither written nor read
    "database_away",  # the control database takes no writes
)
FIRST_SHARE, LAST_SHARE = 0.05, 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    target: int  # of the hosts or nodes there are, modulo their number
    lasts_s: float  # until it is mended, where the kind has an end; the notice of `drain_node`

    def __str__(self) -> str:
        return f"{self.kind}(target={self.target}, lasts_s={self.lasts_s})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Faults that happen at once, when this share of all steps is committed and a little later."""

    at_share: float
    after_s: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"at {self.at_share:.0%} + {self.after_s} s: {' '.join(map(str, self.faults))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that goes wrong in one run."""

    seed: int
    database: str  # sqlite | postgresql
    moments: tuple[Moment, ...]

    @property
    def kinds(self) -> set[str]:
        return {fault.kind for moment in self.moments for fault in moment.faults}

    def __str__(self) -> str:
        return "\n  ".join([f"seed {self.seed} on {self.database}", *map(str, self.moments)])


def plan(seed: int) -> Plan:
    """Three moments of one to three faults each, no kind twice."""
    rng = random.Random(seed)
    kinds = rng.sample(KINDS, len(KINDS))
    shares = sorted(rng.uniform(FIRST_SHARE, LAST_SHARE) for _ in range(3))
    moments = []
    for share in shares:
        here, kinds = kinds[: (size := rng.randint(1, 3))], kinds[size:]
        faults = tuple(_fault(kind, rng) for kind in here)
        moments.append(Moment(at_share=round(share, 3), after_s=round(rng.uniform(0, 1), 2), faults=faults))
    return Plan(seed=seed, database="postgresql" if seed % 2 else "sqlite", moments=tuple(moments))


def _fault(kind: str, rng: random.Random) -> Fault:
    return Fault(kind=kind, target=rng.randrange(3), lasts_s=round(rng.uniform(1.0, 4.0), 1))
