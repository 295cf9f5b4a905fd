"""What one placement service is started with: where it keeps things, what hosts it may have, how it keeps time."""

from __future__ import annotations

from dataclasses import dataclass

from mlora_ray.policies.models.step_time import UNKNOWN, StepTimeModel, StepTimes
from mlora_ray.types import AutoscaleSettings, HostType, MemoryModel
from mlora_ray.types.storage_layout import StorageLayout

ONE_HOST = AutoscaleSettings(min_hosts=1, max_hosts=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """One service is one storage and one control database. `storage` holds a folder a job, and ours under `.mlora`."""

    name: str = "mlora"  # of the placement actor in Ray's namespace `mlora`
    storage: str = ""  # directory or fsspec URL that every node reaches
    database_url: str = ""
    policy: str = "rebalance"
    tenant_shares: tuple[tuple[str, float], ...] = ()  # weights of tenants, for policies that know them
    base_profiles: tuple[StepTimeModel, ...] = ()  # measured: one a base and device
    host_types: tuple[HostType, ...] = (HostType(name="cpu"),)
    autoscale: AutoscaleSettings = ONE_HOST
    is_logging_decisions: bool = True
    tick_s: float = 1.0
    host_timeout_s: float = 10.0  # a host that is silent for so long is fenced off and replaced
    stall_timeout_s: float = 1800.0  # one that answers, but whose training stands still for so long, too; 0: never
    host_max_steps: int = 0  # a host is recycled after so many optimizer steps; 0: never
    memory_recycle_share: float = 0.97  # of its memory limit, passed for a minute: recycled; 0: never
    save_attempts: int = 0  # see HostSettings
    max_uncommitted_steps: int = 200
    page_root: str = ""  # node-local directory for adapters that wait on disk; empty: the system's temporary one
    ends_on_trouble: bool = False  # `train`'s own cluster: no host can be had, so the run ends and says why

    @property
    def step_times(self) -> StepTimes:
        """Of the profiles; a base without one has none until hosts have shown it."""
        return StepTimes(self.base_profiles, default=UNKNOWN)

    def memory_of(self, base: str, device: str) -> MemoryModel | None:
        """What was measured of this base's memory on this device."""
        found = (p.memory for p in self.base_profiles if (p.base, p.device_type) == (base, device))
        return next(found, None)

    @property
    def layout(self) -> StorageLayout:
        return StorageLayout(self.storage)

    @property
    def bundle_root(self) -> str:
        return self.layout.bundles

    @property
    def data_root(self) -> str:
        return self.layout.data

    @property
    def probe_uri(self) -> str:
        return self.layout.probe

    @property
    def decisions_uri(self) -> str:
        """Empty where the storage is not a local path: an object store cannot be appended to."""
        return "" if "://" in self.storage or not self.is_logging_decisions else self.layout.decisions
