"""What a job has left against its deadline, and what both rules for spot machines need to know of it.

C(t) is the work left in seconds alone on one device, R(t) the time left; the slack R - C never grows: it stands still
while the job runs alone, and falls while it shares a device or waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.types import AdapterView


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotSettings:
    """What it takes to change machines, and how cautious to be."""

    changeover_s: float = 147.1  # d: boot a node, load the base, place the adapter
    probe_gap_s: float = 60.0  # how often hosts are decided on
    patience: float = 4.0  # a job without a deadline is due after so many times its time alone
    unknown_s: float = 600.0  # work of a job of unknown size beyond what it has had
    start_patience_s: float = 600.0  # a spot machine that has not started for so long is as good as refused
    margin_s: float = 15.0  # for what is rounded and for the pause of a move
    reserve_s: float = 1200.0  # slack kept for spot machines that vanish: about six changes of machine
    spot_to_sure: float = 1 / 3  # price of a spot machine over one on demand
    soft_speed: float = 1 / 3  # of its speed alone: what a job without a deadline asks of a shared device

    @property
    def fallback_s(self) -> float:
        """From noticing nothing runs to running on demand."""
        return self.probe_gap_s + self.changeover_s


class Slack(NamedTuple):
    """One job now. Seconds are of work alone on one device."""

    adapter: AdapterView
    left_s: float  # C(t)
    done_s: float
    due_at_s: float
    slack_s: float  # R(t) - C(t)
    alone_step_s: float
    is_firm: bool  # its user set a deadline, and it can still be met

    @property
    def name(self) -> str:
        return self.adapter.id

    @property
    def first_slack_s(self) -> float:
        """Its slack when it was submitted."""
        return self.due_at_s - self.adapter.submitted_at_s - self.done_s - self.left_s

    def is_behind(self, now_s: float) -> bool:
        """Less done than uniform progress from submission to the deadline asks for by `now_s`."""
        began_s = self.adapter.submitted_at_s
        return self.done_s < (now_s - began_s) * (self.done_s + self.left_s) / max(1e-9, self.due_at_s - began_s)


def slack_of(
    adapter: AdapterView, now_s: float, step_times: StepTimes, settings: SpotSettings, is_forgiving: bool = False
) -> Slack:
    """`is_forgiving`: a deadline that is out of reach counts as none."""
    model = step_times.of(adapter.base, adapter.device_type)
    tokens_s = adapter.solo_tokens_s or model.solo_tokens_s(adapter.step_tokens, adapter.lora_rank)
    done_s = adapter.tokens_done / tokens_s
    left_s = done_s + settings.unknown_s
    if adapter.tokens_total is not None:  # past its declared size: a tenth of what it has done
        left = adapter.tokens_total - adapter.tokens_done
        left_s = (left if left > 0 else 0.1 * adapter.tokens_done) / tokens_s
    patient_at_s = adapter.submitted_at_s + settings.patience * (done_s + left_s)
    due_at_s = patient_at_s if adapter.deadline_at_s is None else adapter.deadline_at_s
    is_firm = adapter.deadline_at_s is not None and now_s + left_s <= due_at_s
    if is_forgiving and not is_firm:
        due_at_s = max(due_at_s, patient_at_s)
    return Slack(
        adapter=adapter,
        left_s=left_s,
        done_s=done_s,
        due_at_s=due_at_s,
        slack_s=due_at_s - now_s - left_s,
        alone_step_s=adapter.step_tokens / tokens_s,
        is_firm=is_firm,
    )
