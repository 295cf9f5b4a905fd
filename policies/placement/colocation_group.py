"""A group under construction: what its members are worth, how long its step takes, and who would still add to it."""

from __future__ import annotations

import math
from typing import NamedTuple

from mlora_ray.policies.models.step_time import StepTimeModel
from mlora_ray.types import AdapterView


class GroupMember(NamedTuple):
    """An adapter as a group sees it: its weight times its tokens, and the step time it bears."""

    adapter: AdapterView
    worth: float
    density: float  # its value alone on a device
    max_step_s: float


class ColocationGroup:
    """The members of one host. `value` is the sum of their worth over the step time: what the rule maximises."""

    __slots__ = (
        "host",
        "max_num",
        "max_step_s",
        "members",
        "model",
        "num",
        "rank_tokens",
        "step_s",
        "tokens",
        "value",
        "worth",
    )

    def __init__(self, host: str, model: StepTimeModel, max_num: int = 0) -> None:
        self.host, self.model, self.max_num = host, model, max_num
        self.max_step_s = math.inf
        self.members: dict[str, GroupMember] = {}
        self.tokens = self.rank_tokens = self.worth = 0.0
        self.step_s = self.value = 0.0
        self.num = 0

    def add(self, member: GroupMember) -> None:
        self.members[member.adapter.id] = member
        self.max_step_s = min(self.max_step_s, member.max_step_s)
        self._change(member, 1)

    def remove(self, name: str) -> None:
        member = self.members.pop(name)
        if member.max_step_s <= self.max_step_s:
            self.max_step_s = min((m.max_step_s for m in self.members.values()), default=math.inf)
        self._change(member, -1)

    def _change(self, member: GroupMember, sign: int) -> None:
        self.num += sign
        if not self.num:
            self.tokens = self.rank_tokens = self.worth = self.step_s = self.value = 0.0
            return
        tokens = sign * member.adapter.step_tokens
        self.tokens += tokens
        self.rank_tokens += tokens * member.adapter.lora_rank
        self.worth += sign * member.worth
        self.step_s = self.model.step_s(self.tokens, self.num, self.rank_tokens)
        self.value = self.worth / self.step_s

    def step_s_with(self, adapter: AdapterView) -> float:
        tokens = adapter.step_tokens
        return self.model.step_s(self.tokens + tokens, self.num + 1, self.rank_tokens + tokens * adapter.lora_rank)

    def gain_of(self, member: GroupMember) -> float:
        """What adding it does to `value`; -1 where it would slow someone past a bound, or there is no place."""
        if self.num and self.num == self.max_num:
            return -1.0
        step_s = self.step_s_with(member.adapter)
        if self.num and step_s > min(self.max_step_s, member.max_step_s):
            return -1.0
        return (self.worth + member.worth) / step_s - self.value

    def delay_of(self, member: GroupMember) -> float:
        """Adding it, in units of its own time alone: how long it takes itself, and what it costs every member."""
        step_s = self.step_s_with(member.adapter)
        alone_s = member.worth / member.density
        return step_s / alone_s + self.num * (step_s / self.step_s - 1)

    def step_s_without(self, adapter: AdapterView) -> float:
        tokens = adapter.step_tokens
        return self.model.step_s(self.tokens - tokens, self.num - 1, self.rank_tokens - tokens * adapter.lora_rank)

    def best_with(self, member: GroupMember) -> tuple[float, list[AdapterView]]:
        """Seed and add from the members and this one: the value that comes out, and the members left out.

        Where it is left out itself there is nothing to gain: (0, []).
        """
        made = ColocationGroup(self.host, self.model, self.max_num)
        left = []
        for one in sorted([*self.members.values(), member], key=lambda m: m.density, reverse=True):
            if made.gain_of(one) > 0:
                made.add(one)
            elif one is member:
                return 0.0, []
            else:
                left.append(one.adapter)
        return made.value, left
