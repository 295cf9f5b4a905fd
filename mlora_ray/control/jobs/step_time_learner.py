"""What placement learns of step times from its hosts' answers, and how far each host is from what was predicted."""

from __future__ import annotations

from mlora_ray.control.hosts.managed_host import ManagedHost
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.policies.models.step_time_fit import StepTimeFit, learn, predicted_s, rows_since
from mlora_ray.types import HostReport, LearnedStepTime


class StepLearner:
    """Forgets all of it when placement ends; hosts tell their sums since they started, so most comes back at once."""

    def __init__(self, profiles: StepTimes | None) -> None:
        self._profiles = profiles
        self._learned: dict[tuple[str, str], StepTimeFit] = {}

    def take(self, host: ManagedHost, report: HostReport) -> None:
        """Rows that the host has run since the report that it is known by."""
        rows = rows_since(host.report.rows, report.rows)
        if rows.num_rows <= 0:
            return
        base, device_type = key = (host.base, host.device_type)
        profile = self._profiles.measured(*key) if self._profiles else None
        before = self._learned.get(key, StepTimeFit())
        host.timing = host.timing.after(rows, predicted_s(rows, before.published, profile))
        self._learned[key] = learn(before, rows, base, device_type, report.row_tokens, profile)

    def known(self) -> tuple[LearnedStepTime, ...]:
        """For a view."""
        found = (self._learned[key].published for key in sorted(self._learned))
        return tuple(one for one in found if one is not None)
