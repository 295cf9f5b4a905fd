"""The policy contract: `decide(view, state) -> (actions, state')`, pure; and what no policy may ask for.

A policy has no clock, randomness or I/O of its own. The same object answers the live placement actor and
a simulation, and replaying a logged view gives identical actions.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterable
from typing import NamedTuple, Protocol, cast

from mlora_ray.policies.compatibility import why_not
from mlora_ray.policies.models.step_time import StepTimes
from mlora_ray.types import (
    Action,
    AdapterView,
    ClusterView,
    DrainHost,
    HostView,
    LaunchHost,
    Migrate,
    Pause,
    Place,
    PolicyState,
    SetGroup,
)

# name -> "module:Class"; a user's own policy is named in the same form.
POLICIES = {
    "fifo": "mlora_ray.policies.placement.fifo:Fifo",
    "rebalance": "mlora_ray.policies.placement.rebalance:Rebalance",
    "independent": "mlora_ray.policies.placement.independent:Independent",
    "backfill": "mlora_ray.policies.placement.backfill:Backfill",
    "srpt": "mlora_ray.policies.placement.srpt_las:Srpt",
    "las": "mlora_ray.policies.placement.srpt_las:Las",
    "timeslice": "mlora_ray.policies.placement.fixed_slots:Timeslice",
    "mlora-optimal-fit": "mlora_ray.policies.placement.fixed_slots:MloraOptimalFit",
    "mlora-trivial": "mlora_ray.policies.placement.fixed_slots:MloraTrivial",
    "mlora-fast-fit": "mlora_ray.policies.placement.fixed_slots:MloraFastFit",
    "tlora-1.3": "mlora_ray.policies.placement.tlora:TloraTight",
    "tlora-2.0": "mlora_ray.policies.placement.tlora:TloraLoose",
    "tlora": "mlora_ray.policies.placement.tlora:TloraLoose",
    "rate-remaining": "mlora_ray.policies.placement.rate_remaining:RateRemaining",
    "on-time": "mlora_ray.policies.spot.on_time:OnTime",
    "rate-remaining-no-fusion": "mlora_ray.policies.placement.rate_remaining:RateRemainingNoFusion",
    "rate-remaining-no-preemption": "mlora_ray.policies.placement.rate_remaining:RateRemainingNoPreemption",
}
RENAMED = {
    "ours": "rate-remaining",
    "ours-no-fusion": "rate-remaining-no-fusion",
    "ours-no-preemption": "rate-remaining-no-preemption",
}


class Policy(Protocol):
    """Who trains where. `decide` may read nothing but its arguments and what the policy was made with.

    A policy may also have `wake_s` (ask again after so long without an event; live asks at every tick) and
    `step_rule` (how a simulated group steps: fused, padded or turns; a live group is always fused).
    """

    name: str

    def decide(self, view: ClusterView, state: PolicyState) -> tuple[list[Action], PolicyState]: ...


class Refusal(NamedTuple):
    """An action that breaks an invariant, and which."""

    action: Action
    why: str


def load_policy(
    name: str, step_times: StepTimes | None = None, tenant_shares: tuple[tuple[str, float], ...] = ()
) -> Policy:
    """The policy of that name, or of `module:Class`; one that takes `step_times` or `tenant_shares` gets them.

    Raises ValueError when there is none. A name of an earlier release still works, with a FutureWarning.
    """
    if name in RENAMED:
        warnings.warn(f"policy {name!r} is called {RENAMED[name]!r} now", FutureWarning, stacklevel=2)
        name = RENAMED[name]
    target = POLICIES.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        raise ValueError(f"policy {name!r}: allowed are {', '.join(sorted(POLICIES))} or module:Class")
    try:
        made = getattr(importlib.import_module(module), attribute)
        given = {"step_times": step_times, "tenant_shares": tenant_shares}
        policy = made(**{key: value for key, value in given.items() if value and _takes(made, key)})
    except Exception as error:  # whatever a user's module raises
        raise ValueError(f"policy {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(getattr(policy, "decide", None)):
        raise ValueError(f"policy {name!r} has no decide(view, state)")
    return cast("Policy", policy)


def _takes(made: object, name: str) -> bool:
    try:
        return callable(made) and name in inspect.signature(made).parameters
    except ValueError:  # a builtin without a signature
        return False


def validate_actions(view: ClusterView, actions: Iterable[Action]) -> tuple[list[Action], list[Refusal]]:
    """Split `actions` into those that may be done and those that break an invariant.

    Invariants: an adapter has one owner and is named once; its epoch is the one in the view; hosts are
    alive and of the adapter's base; one adapter's state fits into the host's `free_bytes` (what it can
    still take, paging to disk included, not what is free in its memory; 0: no bound); a group names only
    adapters of its host.
    """
    hosts = {h.id: h for h in view.hosts}
    adapters = {a.id: a for a in view.adapters}
    owner = {a.id: a.host for a in view.adapters if a.host}
    named: set[str] = set()
    allowed: list[Action] = []
    refused: list[Refusal] = []
    for action in actions:
        match action:
            case Place() | Migrate() | Pause():
                why = _why_not_moved(action, adapters.get(action.adapter), hosts, named)
            case SetGroup():
                why = _why_no_group(action, hosts, owner)
            case DrainHost():
                why = "" if action.host in hosts else f"there is no host {action.host}"
            case LaunchHost():
                why = "" if action.base and action.device_type else "a host needs a base and a device type"
            case _:
                why = "is no action"
        if why:
            refused.append(Refusal(action, why))
            continue
        allowed.append(action)
        if isinstance(action, Place | Migrate):
            owner[action.adapter] = action.host
        if isinstance(action, Pause):
            owner.pop(action.adapter, None)
        if isinstance(action, Place | Migrate | Pause):
            named.add(action.adapter)
    return allowed, refused


def _why_not_moved(
    action: Place | Migrate | Pause, adapter: AdapterView | None, hosts: dict[str, HostView], named: set[str]
) -> str:
    if adapter is None:
        return f"there is no adapter {action.adapter}"
    if adapter.id in named:
        return f"{adapter.id} is named by an earlier action"
    if action.epoch != adapter.epoch:
        return f"{adapter.id} has epoch {adapter.epoch}, not {action.epoch}"
    if adapter.state.is_final:
        return f"{adapter.id} is {adapter.state}"
    if isinstance(action, Pause):
        return "" if adapter.host else f"{adapter.id} is on no host"
    if isinstance(action, Place) and adapter.host:
        return f"{adapter.id} is on {adapter.host} already"
    if isinstance(action, Migrate) and (not adapter.host or _hosts_of(action) == {adapter.host, *adapter.shards}):
        return f"{adapter.id} is on {adapter.host or 'no host'}"
    if len(_hosts_of(action)) != 1 + len(action.shards) or len(action.shards) >= max(1, adapter.width):
        return f"{adapter.id} has width {adapter.width}, named are {action.host}, {', '.join(action.shards)}"
    held = (adapter.host, *adapter.shards)
    wrong = (_why_not_there(adapter, hosts.get(h), h, is_there=h in held) for h in (action.host, *action.shards))
    return next(filter(None, wrong), "")


def _hosts_of(action: Place | Migrate) -> set[str]:
    return {action.host, *action.shards}


def _why_not_there(adapter: AdapterView, host: HostView | None, name: str, is_there: bool) -> str:
    """`is_there`: a wide adapter that keeps this host needs no more room on it."""
    if host is None:
        return f"there is no host {name}"
    if host.state != "alive":
        return f"{host.id} is {host.state}"
    if why := why_not(adapter, host):
        return f"{adapter.id} cannot be on {host.id}: {why}"
    if 0 < host.free_bytes < adapter.state_bytes and not is_there:
        return f"{adapter.id} needs {adapter.state_bytes} bytes, {host.id} can take {host.free_bytes}"
    return ""


def _why_no_group(action: SetGroup, hosts: dict[str, HostView], owner: dict[str, str]) -> str:
    host = hosts.get(action.host)
    if host is None or host.state == "dead":
        return f"there is no living host {action.host}"
    if len(set(action.group)) != len(action.group):
        return "an adapter is named twice"
    strangers = [a for a in action.group if owner.get(a) != action.host]
    return f"{', '.join(strangers)} not on {action.host}" if strangers else ""
