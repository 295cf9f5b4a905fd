"""Jobs and clusters for simulation tests, with the step times of the H100 profile."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.policies.contract import load_policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.simulate.results import Costs, Outcome, SimHost, SimJob
from mlora_ray.simulate.simulation import Simulation

BASE = "llama-3.1-8b"
STEPS = StepTimes([read_profile("h100-llama-3.1-8b")])
POLICIES = ("independent", "backfill", "srpt", "las", "timeslice", "mlora-trivial", "mlora-optimal-fit")
POLICIES += (
    "mlora-fast-fit",
    "tlora-1.3",
    "tlora-2.0",
    "rate-remaining",
    "rate-remaining-no-fusion",
    "rate-remaining-no-preemption",
)


def hosts(num: int) -> list[SimHost]:
    return [SimHost(id=f"h{at:03d}", base=BASE) for at in range(num)]


def job(
    name: str,
    submit_s: float,
    duration_s: float,
    width: int = 1,
    rows: int = 4,
    row_tokens: float = 100.0,
    rank: int = 8,
) -> SimJob:
    """One that takes `duration_s` alone on `width` devices."""
    tokens_s = STEPS.default.solo_tokens_s(rows * row_tokens, rank)
    tokens = duration_s * width * tokens_s
    return SimJob(
        id=name,
        submit_s=submit_s,
        duration_s=duration_s,
        width=width,
        rows=rows,
        row_tokens=row_tokens,
        lora_rank=rank,
        base=BASE,
        tenant=f"t{len(name) % 3}",
        tokens=tokens,
        solo_tokens_s=tokens_s,
        declared_tokens=tokens,
    )


def simulate(policy: str, jobs: Sequence[SimJob], num_hosts: int, costs: Costs | None = None) -> Outcome:
    return Simulation(jobs, hosts(num_hosts), STEPS, load_policy(policy, STEPS), costs).run()


job_lists = st.lists(
    st.tuples(
        st.integers(0, 2000),  # submit
        st.integers(60, 3000),  # duration
        st.sampled_from([1, 1, 1, 2, 4]),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([20.0, 100.0, 400.0, 1200.0]),
    ),
    min_size=1,
    max_size=14,
).map(lambda rows: [job(f"j{at}", *row) for at, row in enumerate(sorted(rows))])
