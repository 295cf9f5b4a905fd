"""How long one decision takes: `python -m mlora_ray.benchmarks.decision_time [--policy ours] [--adapters 10000]`.

A cluster whose adapters have come, were placed, progress a few seconds between decisions and end and come a few at a
time. CPU time, so that other work on the machine does not count; the first decision, when everybody waits, is said by
itself. Prints JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time

from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.policies.contract import Policy, load_policy
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.types import AdapterView, ClusterView, HostView, JobState, Migrate, Pause, Place, PolicyState

HOST_BYTES, STATE_BYTES = 64 * 10**9, 10**8
TICK_S = 5.0
CHANGES = 3  # adapters that end, and that come, between two decisions
WIDTHS, SHARES = (1, 2, 4, 8), (0.964, 0.004, 0.018, 0.014)  # Philly's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="rate-remaining")
    parser.add_argument("--profile", default="h100-llama-3.1-8b")
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--hosts", type=int, default=128)
    parser.add_argument("--regimes", default="70,700,4400")
    parser.add_argument("--decisions", type=int, default=30)
    held = parser.parse_args()
    step_times = StepTimes([read_profile(held.profile)])
    rows = []
    for regime in map(float, held.regimes.split(",")):
        cluster = _Cluster(step_times, held.adapters, held.hosts, regime)
        times = [cluster.decide(load_policy(held.policy, step_times)) for _ in range(held.decisions + 1)]
        row = {"regime": regime, "adapters": held.adapters, "hosts": held.hosts, "running": cluster.num_running}
        row |= {"first_ms": times[0], "median_ms": statistics.median(times[1:]), "max_ms": max(times[1:])}
        rows.append(row)
    print(json.dumps({"policy": held.policy, "profile": held.profile, "rows": rows}))


class _Cluster:
    """The views of a cluster that does what it is told."""

    def __init__(self, step_times: StepTimes, num_adapters: int, num_hosts: int, regime: float) -> None:
        self._model, self._regime, self._random = step_times.default, regime, random.Random(1)
        self._num_made, self._now_s = 0, 0.0
        self._state = PolicyState()
        self._hosts = [f"h{at}" for at in range(num_hosts)]
        self._adapters: dict[str, AdapterView] = {}
        for _ in range(num_adapters):
            self._add()

    @property
    def num_running(self) -> int:
        return sum(a.host is not None for a in self._adapters.values())

    def decide(self, policy: Policy) -> float:
        """Milliseconds of one decision; then it is carried out and some time goes by."""
        view = self._view()
        before = time.process_time()
        actions, self._state = policy.decide(view, self._state)
        spent = (time.process_time() - before) * 1e3
        for action in actions:
            if isinstance(action, Pause):
                self._change(action.adapter, host=None, shards=(), state=JobState.QUEUED)
            elif isinstance(action, Place | Migrate):
                self._change(action.adapter, host=action.host, shards=action.shards, state=JobState.TRAINING)
        running = [a for a in self._adapters.values() if a.host]
        for one in running:
            assert one.tokens_total is not None
            done = one.tokens_done + int(one.solo_tokens_s * TICK_S)
            self._change(one.id, tokens_done=min(one.tokens_total - 1, done))
        for one in self._random.sample(running, min(CHANGES, len(running))):
            del self._adapters[one.id]
            self._add()
        self._now_s += TICK_S
        return spent

    def _change(self, name: str, **values: object) -> None:
        self._adapters[name] = dataclasses.replace(self._adapters[name], **values)  # type: ignore[arg-type]

    def _add(self) -> None:
        random_ = self._random
        tokens = random_.choice((1, 2, 4, 8)) * self._regime / 3.75
        solo = self._model.solo_tokens_s(tokens)
        self._num_made += 1
        name = f"a{self._num_made}"
        self._adapters[name] = AdapterView(
            id=name,
            base=self._model.base,
            epoch=0,
            state=JobState.QUEUED,
            lora_rank=8,
            step_tokens=tokens,
            tokens_done=0,
            tokens_total=int(solo * random_.lognormvariate(7.3, 1.75)) + 1,
            submitted_at_s=self._now_s + self._num_made * 1e-6,
            state_bytes=STATE_BYTES,
            solo_tokens_s=solo,
            width=random_.choices(WIDTHS, SHARES)[0],
        )

    def _view(self) -> ClusterView:
        groups: dict[str, list[str]] = {host: [] for host in self._hosts}
        for adapter in self._adapters.values():
            for host in (adapter.host, *adapter.shards) if adapter.host else ():
                groups[host].append(adapter.id)
        hosts = tuple(
            HostView(
                id=host,
                base=self._model.base,
                device_type=self._model.device_type,
                free_bytes=HOST_BYTES - STATE_BYTES * len(group),
                group=tuple(group),
            )
            for host, group in groups.items()
        )
        return ClusterView(now_s=self._now_s, hosts=hosts, adapters=tuple(self._adapters.values()))


if __name__ == "__main__":
    main()
