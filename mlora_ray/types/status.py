"""What people see of jobs, hosts and the whole: the answers of `status` and `hosts`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from mlora_ray.types import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """One job right now. `loss` is NaN before its first step."""

    name: str
    state: JobState
    step: int  # the newest known, committed or not
    total_steps: int
    loss: float = float("nan")
    num_tokens: int = 0
    tokens_per_s: float = 0.0
    is_resident: bool = False
    host: str = ""
    error: str = ""
    note: str = ""  # why it waits


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The whole run right now: `done_tokens` of `total_tokens`; a limit of 0 means unknown."""

    jobs: tuple[JobStatus, ...]
    tokens_per_s: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    token_budget: int = 0  # tokens of one packed row
    elapsed_s: float = 0.0
    total_tokens: int = 0
    done_tokens: int = 0
    phase: str = "training"  # starting | training | evaluating | saving | done
    warnings: tuple[str, ...] = ()
    error: str = ""  # set when the run cannot go on

    @property
    def share_done(self) -> float:
        """0 to 1, by tokens; by jobs when the tokens are unknown."""
        if self.total_tokens > 0:
            return min(1.0, self.done_tokens / self.total_tokens)
        return sum(job.state.is_final for job in self.jobs) / max(1, len(self.jobs))

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the present rate; None when unknown."""
        left = self.total_tokens - self.done_tokens
        return max(0, left) / self.tokens_per_s if self.tokens_per_s > 0 and self.total_tokens > 0 else None

    def counts(self) -> str:
        """`3 training · 4 waiting · 1 done`."""
        done = sum(job.state is JobState.SUCCEEDED for job in self.jobs)
        failed = sum(job.state is JobState.FAILED for job in self.jobs)
        cancelled = sum(job.state is JobState.CANCELLED for job in self.jobs)
        training = sum(job.state is JobState.TRAINING for job in self.jobs)
        waiting = len(self.jobs) - done - failed - cancelled - training
        named = {"training": training, "waiting": waiting, "done": done, "failed": failed, "cancelled": cancelled}
        return " · ".join(f"{number:,} {name}" for name, number in named.items() if number)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """One host right now, or one that is gone."""

    id: str
    host_type: str
    base: str
    state: str  # starting | alive | draining | fenced | gone
    node_id: str = ""
    node_ip: str = ""
    pid: int = 0
    device_type: str = ""
    is_spot: bool = False
    num_jobs: int = 0
    tokens_per_s: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    alive_s: float = 0.0
    stalled_s: float = 0.0  # since its training thread last came round
    row_tokens: int = 0  # tokens of a packed row at most
    row_why: str = ""
    step_time_drift: float = 0.0  # actual over predicted seconds of its rows; 0: nothing has predicted them yet
    detail: str = ""  # why it waits, drains or is gone
