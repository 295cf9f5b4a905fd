"""What a host is: its type, its settings, what it says of itself, when to start another. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from mlora_ray.types.jobs import BaseSpec

BASE_FILES = " (config and tokenizer)"  # after a base's id: the same base's files beside its weights


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """What `mlora-ray profile` measured of a process that trains on `base`."""

    base: str  # BaseSpec.id
    fixed_bytes: int  # the process and what a row of any length needs, without the base's weights
    token_bytes: float  # of a packed token, forward and backward
    score_bytes: float = 0.0  # of a packed token and each token of its sequence, where attention keeps its scores
    state_share: float = 1.0  # of the bytes of states and open steps, what the peak grows by

    def peak_bytes(self, base_bytes: int, row_tokens: int, kept_length: int, own_bytes: int) -> int:
        """Largest resident size with rows of `row_tokens` tokens in sequences of `kept_length`.

        `own_bytes`: states of the resident adapters, and gradients and compute copies of the open steps.
        """
        rows = row_tokens * (self.token_bytes + self.score_bytes * kept_length)
        return int(self.fixed_bytes + base_bytes + rows + self.state_share * own_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostType:
    """A kind of host that can be launched: what one actor asks of Ray, what it costs, how many there may be."""

    name: str
    device: str = "cpu"  # cpu | cuda
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    labels: tuple[tuple[str, str], ...] = ()  # Ray's label selector: the node must carry these
    zone: str = ""
    is_spot: bool = False
    price_per_hour: float = 0.0
    max_hosts: int = 1
    threads: int = 1
    memory_limit_bytes: int = 0
    adapter_memory_bytes: int = 0
    token_budget: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleSettings:
    """How many hosts there are. `policies.autoscale.PROFILES` names sets of these numbers."""

    profile: str = "custom"
    min_hosts: int = 0
    max_hosts: int = 1
    max_cost_per_hour: float = 0.0  # 0: no bound
    target_wait_s: float = 300.0  # launch while the queued work would take longer than this on the hosts there are
    jobs_per_host: int = 8  # where no speed has been measured yet: that many jobs fill a host
    up_delay_s: float = 0.0  # the need must have stood for so long
    down_delay_s: float = 120.0  # a host must have been idle, or one too many, for so long
    spot_share: float = 0.0  # of the hosts that may be spot, 0 to 1
    is_forecasting: bool = False
    start_patience_s: float = 1800.0  # a host that does not start is given up, its type not tried for as long; 0: never
    node_idle_timeout_s: float = 0.0  # an autoscaled node outlives its host by this, and costs as long; 0: not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What a host is started with. Limits of 0 mean: choose."""

    id: str
    base: BaseSpec
    bundle_root: str
    page_dir: str
    device: str = "cpu"
    threads: int = 1
    memory_limit_bytes: int = 0
    adapter_memory_bytes: int = 0
    token_budget: int = 0
    host_type: str = ""
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    labels: tuple[tuple[str, str], ...] = ()
    save_attempts: int = 5  # then the job fails, resumable; 0: for ever, training pauses at `max_uncommitted_steps`
    max_uncommitted_steps: int = 200
    probe_uri: str = ""  # a file of the storage that the host must be able to read
    service: str = ""
    actor_name: str = ""  # its own for ever: no host is ever taken for another
    orphan_s: float = 900.0  # without a word from placement for so long, a host ends
    memory: MemoryModel | None = None  # measured for this base; none: bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """What a host says of itself once its base is loaded."""

    id: str
    base: str
    base_sha256: str  # of its weights
    device_type: str
    pid: int
    memory_limit_bytes: int
    base_bytes: int
    activation_bytes: int
    adapter_bytes: int
    token_budget: int
    summary: str = ""  # the memory limit and what it buys, in a sentence
    facts: tuple[tuple[str, str], ...] = ()  # of its machine: what decides the bits, see mlora_ray.engine.numerics
    numerics: str = ""  # hash of the facts, device and threads: equal ones compute equal bits
    base_files_sha256: str = ""  # of its config, tokenizer and chat template
    node_id: str = ""
    node_ip: str = ""
